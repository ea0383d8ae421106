"""ProxyKV: a benchmark harness for KV-cache pruning, with proxy models that score the cache."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxykv.api import Pair, PrunedContext, load_pair

__version__ = "0.1.0"
__all__ = ["Pair", "PrunedContext", "load_pair"]


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is first used: planning a run never loads torch."""
    if name in __all__:
        return getattr(importlib.import_module("proxykv.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
