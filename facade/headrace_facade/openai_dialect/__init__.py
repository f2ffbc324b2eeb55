"""OpenAI's API: requests into calls, events and results back into its objects. One module per group of endpoints.

It translates and no more. What is supported, and what is refused and why, is told in docs/openai.md.
"""
