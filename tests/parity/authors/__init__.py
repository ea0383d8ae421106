"""Scores and prompts beside those of the benchmarks' authors, whose code is not part of this one.

`python -m tests.parity.authors longbench <checkout> --count 1500` compares, prints a line for each
task, and exits with 1 if anything differs. docs/benchmarks/README.md has the commits.
"""
