"""``headrace-weights``: fetches one file of weights over a network into a cache, verified, once for all who need it.

It runs as a Job beside the model's runners, with the source's credentials and without a token of the cluster; what it
may say in Redis is how far it is (decision 17). It executes no model.
"""
