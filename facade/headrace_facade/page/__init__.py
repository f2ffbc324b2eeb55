"""The page at /ui: what the JSON routes tell, for people. It changes no object; docs/page.md has its rules.

`session` is the sign-in, `overview` and `one_task` make cells of what the services tell, `live` sends them again as
they change, `rendering` writes HTML. Nothing here knows Kubernetes or Redis.
"""
