"""Compares scores and prompts with those of the benchmarks' authors, whose code is not included.

`python -m tests.parity.authors longbench <checkout> --count 1500` compares, prints a line for each
task, and exits with 1 if anything differs. docs/benchmarks/README.md has the commits.
"""
