"""The HTTP API: creates and reads tasks with the caller's own token.

`routes` delivers, `service` decides, `kube` talks to the API server; `context` puts them together. What is done with
objects the API server judges by the caller's token; `identity` and `directory` ask it with the facade's own account.
"""
