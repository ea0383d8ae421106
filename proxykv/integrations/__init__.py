"""Connections to other projects: lm-eval, and the model hub for mappers.

Imports every folder that a pruned context needs; only the command line imports this one.
"""
