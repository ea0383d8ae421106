"""ProxyKV: a benchmark harness for KV-cache pruning, with proxy models that score the cache."""

__version__ = "0.1.0"
