"""Safetensors files with named tensors and a few words of metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from proxykv.runtime import files


def save(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors of any device, atomically.

    Args:
        path: the file; its folder is created.
        tensors: tensors by name.
        metadata: strings by name, to be read without the tensors.
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
