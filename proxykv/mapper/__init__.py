"""ProxyKV itself: the mapper, its loss, training, stored scores and folder on disk.

Imports `scoring` and what that may import.
"""
