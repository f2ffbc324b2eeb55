"""Telling others how a task ended.

Whom: `address`, `target`. What: `event`, signed by `keys` and `signing`. Sent by `resolve` and `send`. When: `owed`,
`outbox`, `delivery`. What is owed stands in the objects, condition Notified=False; the rest is the leader's memory.
"""
