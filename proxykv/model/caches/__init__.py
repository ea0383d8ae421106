"""KV caches: a context's, and those that answer from it, pruned or whole.

Imports `kernels` and other modules of `model`.
"""
