"""What people do with a run's folder: see how far it is, audit it, take a part back, go on.

Imports `benchmarks`, `config` and `runtime`, and never torch.
"""
