"""Models: devices, loading and prompts, attention, KV caches, prefill and decoding.

Imports `kernels`, `config` and `runtime`.
"""

from proxykv.model.caches.context import ATTENTION

__all__ = ["ATTENTION"]
