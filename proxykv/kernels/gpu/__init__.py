"""The Triton kernels and their launches. Importing any of these modules needs Triton.

Imports `kernels` and `runtime`.
"""
