"""Time and memory of whole requests: contexts are read, scored, pruned, and a question is answered.

The engine is what runs; here it is timed and watched. `proxykv.config.efficiency` lists the cases.
Imports `runtime`, `config`, `benchmarks`, `kernels`, `model`, `scoring` and `mapper`.
"""
