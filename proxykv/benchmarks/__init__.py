"""Benchmarks: contexts and questions as separate texts, and how an answer is scored.

One module or folder each. Imports `config` and `runtime`, and never torch: a step
gives the tokenizer.
"""
