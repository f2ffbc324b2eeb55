"""The command line: what people do with manifests, with a cluster or without one.

``run`` executes them with the runner's own code and a real engine; ``validate`` judges them as the API server would.
"""
