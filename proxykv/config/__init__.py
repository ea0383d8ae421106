"""A config as typed, frozen objects: what a run consists of, where each part is, what it costs.

Mistakes are named here, before any job. Imports `runtime`, and never torch: the Snakefile plans
with this folder alone.
"""
