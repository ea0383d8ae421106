"""What keeps work safe on a machine: locks, journals, whole files, downloads, claims on GPUs.

Knows nothing of runs, models or methods. Imports no other folder, and never torch.
"""
