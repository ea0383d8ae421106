"""Names and default weights of the loss's terms, read from the source of `proxykv.mapper.loss`.

That module loads torch, and a run is planned without it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "mapper" / "loss.py"
DECORATOR, SUFFIX = "loss_term", "_loss"


@cache
def term_weights() -> Mapping[str, float]:
    """Default weight of every term, in the order of the source; 0 for a term that is off."""
    return {
        node.name.removesuffix(SUFFIX): float(ast.literal_eval(call.args[0]))
        for node in ast.parse(SOURCE.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and ast.unparse(call.func) == DECORATOR
    }


def default_weights() -> dict[str, float]:
    """Terms that are trained with where a config states no weights."""
    return {name: weight for name, weight in term_weights().items() if weight}
