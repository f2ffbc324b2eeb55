"""The runner: claims tasks, has the engine generate, judges the result and commits the outcome.

``execute`` is the one path from work to outcome, shared with ``headrace run``; ``flight`` is a delivery's life in a
pod. ``engine`` runs in another container and shares nothing with the rest but its protocol.
"""
