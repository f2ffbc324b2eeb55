"""Remote models: one module per provider, all behind ``protocol.Provider``.

Built-in providers and those of other distributions are found in the same way (``registry``). None of them opens a
connection of its own: ``transport`` gives the client, and refuses what the model may not reach.
"""
