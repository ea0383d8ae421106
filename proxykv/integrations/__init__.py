"""Doors from other harnesses: lm-eval.

Imports every folder that a pruned context needs; only the command line imports this one.
"""
