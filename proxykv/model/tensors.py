"""Shapes of scores, kept sets, queries and keys, used by every folder.

`layer` counts the target's layers, `kv_head` its key/value heads, `token` the context's tokens (the
prefix is always kept and not counted). `q_head` counts query heads, `kv_heads x group`.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

Scores = Float[Tensor, "layer kv_head token"]
"""Importance of every KV pair of a context, float32, finite; higher is kept first."""

ProxySignal = Float[Tensor, "proxy_layer proxy_head token"]
"""The proxy's scores of the same tokens, which a mapper reads."""

Keep = Bool[Tensor, "layer kv_head token"]
"""True for the KV pairs that stay."""

Ids = Int[Tensor, "_"]
"""Token ids of one text, of any length."""

Queries = Float[Tensor, "row q_head query dim"]
"""Queries after RoPE, as transformers passes them to an attention function."""

KeyValues = Float[Tensor, "row kv_head key dim"]
"""Keys (after RoPE) or values of one layer."""

Stored = Float[Tensor, "row kv_head stored dim"]
"""Keys or values of one layer in a cache, which may hold more tokens than the new ones."""
