"""Safetensors files: named tensors, flat or in groups, with metadata. No pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from proxykv.runtime import files

Groups = dict[str, dict[str, Tensor]]


def save(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors from any device, atomically.

    Args:
        path: the file; its folder is created.
        tensors: tensors by name.
        metadata: strings by name, which can be read without the tensors.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with files.atomic(path) as partial:
        save_file(stored, partial, metadata=dict(metadata) if metadata else None)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file to read single tensors, slices or the metadata (see `safetensors.safe_open`).

    Raises:
        FileNotFoundError: if there is no such file.
        PermissionError: if this user may not read it.
        SafetensorError: if it is damaged.
    """
    files.require_readable(path)
    with safe_open(path, "pt") as stored:
        yield stored


def save_groups(
    path: Path, groups: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, str]
) -> None:
    """Write groups of tensors, atomically.

    Args:
        path: the file; its folder is created.
        groups: tensors by group and name; the name of a group holds no dot.
        metadata: strings by name.
    """
    tensors = {
        f"{group}.{name}": tensor
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    save(path, tensors, metadata)


def read_groups(path: Path, device: str) -> Groups:
    """Read what `save_groups` wrote, onto a device; empty groups are missing.

    Args:
        path: the safetensors file.
        device: where the tensors go.
    """
    groups: Groups = {}
    for name, tensor in load_file(path, device=device).items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    return groups


def read_metadata(path: Path) -> dict[str, str]:
    """Read a file's metadata; empty if there is no file."""
    if not path.exists():
        return {}
    with opened(path) as stored:
        return stored.metadata() or {}
