"""Fidelity without answers: fitted methods on held-out contexts, all methods on the benchmarks'."""
