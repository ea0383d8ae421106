"""Time and memory of whole requests: contexts are read, scored, pruned, and a question is answered.

It measures the engine that the workflow runs. `proxykv.config.efficiency` lists the cases.
Imports `runtime`, `config`, `benchmarks`, `kernels`, `model`, `scoring` and `mapper`.
"""
