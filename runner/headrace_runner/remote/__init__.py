"""A model that somebody else serves: what stands in an engine's place.

``backend`` is what the runner sees of it, ``engine`` one attempt's calls, ``call_gate`` who may call now. The providers
themselves are in ``headrace_runner.providers``.
"""
