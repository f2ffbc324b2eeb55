"""Decisions: snapshot in, plan out. No await, no I/O, no framework; `.importlinter` checks it.

`task` and `model` are the doors; `acceptance`, `retry`, `waiting`, `placement` and `verdict` are the policies;
`children`, `pod` and `network` build manifests.
"""
