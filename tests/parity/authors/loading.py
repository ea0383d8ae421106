"""Modules of a checkout, with stand-ins for what they import and scoring never uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


@contextmanager
def importable(folder: Path, stand_ins: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Let modules of a folder be imported inside, and forget them at the end.

    Args:
        folder: of the checkout.
        stand_ins: modules that need not be installed, or not in the release that the authors use,
            and what is imported from them.
    """
    if not folder.is_dir():
        sys.exit(f"{folder}: no such folder; give a checkout of the authors' repository")
    made = {name: ModuleType(name) for name, has in stand_ins.items() if not _has(name, has)}
    for name, module in made.items():
        vars(module).update(stand_ins[name])
    installed = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if name in made or str(folder) in (getattr(module, "__file__", None) or ""):
                del sys.modules[name]
        sys.modules.update({name: module for name, module in installed.items() if module})


def _has(name: str, attributes: Mapping[str, Any]) -> bool:
    try:
        module = import_module(name)
    except ImportError:
        return False
    return all(hasattr(module, attribute) for attribute in attributes)
