"""The HTTP API: creates and reads tasks with the caller's own token.

`routes` delivers, `service` decides, `kube` talks to the API server; `context` puts them together. The facade has no
rights of its own and keeps no state: whatever it answers, the API server has judged.
"""
