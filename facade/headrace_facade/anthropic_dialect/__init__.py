"""The HTTP API of Anthropic over calls: `/v1/messages`.

Translates and no more. Bodies are read, and calls attended, by what it shares with the dialect of OpenAI.
"""
