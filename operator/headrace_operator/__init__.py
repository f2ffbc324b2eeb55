"""Headrace's operator: kopf events become keys in our own work queues; workers observe, decide and apply.

`watch` and `store` know what exists, `decide` judges (pure), `apply_*` writes, `sweep` and `reaper` find what events
missed. It never executes a task, and can be killed at any time.
"""
