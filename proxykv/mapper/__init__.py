"""ProxyKV: the mapper, its loss and training, stored scores, and folders of fitted methods.

Imports `scoring` and what that may import.
"""
