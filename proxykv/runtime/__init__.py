"""Safe work on a machine: locks, journals, atomic files, downloads, claims on GPUs.

Knows nothing of runs, models or methods. Imports no other folder, and never torch.
"""
