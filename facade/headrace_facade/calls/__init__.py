"""Interactive work: a request goes through the model's queue without an object, and its answer comes back by the bus.

docs/calls.md says how; `contract` is what the dialects see of it.
"""
