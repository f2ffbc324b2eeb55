"""The engine container: a process without token, network or Redis that turns prompts into text.

``supervisor`` (PID 1) locks itself in with ``seccomp``, starts ``child`` and writes the state file. ``child`` verifies
and loads the model, then serves a Unix socket (``server``) in front of the decode thread (``loop``). The runner imports
``protocol``, ``state`` and ``client`` from here and nothing else: no model code runs beside its token.
"""
