"""Doors to other places: lm-eval, and mappers on the model hub.

Imports every folder that a pruned context needs; only the command line imports this one.
"""
