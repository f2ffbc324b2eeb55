"""OpenAI's files and batches: a batch's lines become LLMTasks, made and read with the caller's own token.

A replica keeps nothing: files and batches are ConfigMaps of the caller's namespace, and what a killed replica has left
undone is done by whichever request looks next. Why it is so is told in docs/decisions/0016.
"""
