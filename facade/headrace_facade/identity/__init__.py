"""Who asks: a Caller made of a cluster's token or of an API key, or why there is none.

`callers` decides, `tokens` and `keys` ask the API server, `kept` remembers their answers for seconds. The rules are
docs/calls.md's, the facade's rights for it those of decision 0013.
"""

from headrace_facade.identity.callers import Callers

__all__ = ["Callers"]
