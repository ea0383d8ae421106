"""Commands on a run's folder: progress, audit, forgetting rows, recovery.

Imports `benchmarks`, `config` and `runtime`, and never torch.
"""
