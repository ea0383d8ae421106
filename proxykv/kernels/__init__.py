"""Operations whose speed decides a run's cost: each a PyTorch reference and a Triton kernel.

One function per operation; `choice` decides which of the two runs. Triton is imported only where
its kernels run. Imports `runtime`.
"""
