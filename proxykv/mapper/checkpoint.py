"""Checkpoints: named groups of tensors in one safetensors file, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from proxykv.mapper import tensor_file

Groups = dict[str, dict[str, Tensor]]


def write(path: Path, groups: Mapping[str, Mapping[str, Tensor]], about: Mapping[str, str]) -> None:
    """Store groups of tensors with a few words about them; the file appears whole or not at all."""
    tensors = {
        f"{group}.{name}": tensor
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    tensor_file.save(path, tensors, about)


def read_about(path: Path) -> dict[str, str]:
    """What `write` was told about the groups; empty where there is no file."""
    if not path.exists():
        return {}
    with tensor_file.opened(path) as stored:
        return stored.metadata()


def read(path: Path, device: str) -> Groups:
    """The groups that `write` stored; an empty group is not among them."""
    groups: Groups = {}
    for name, tensor in load_file(path, device=device).items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    return groups
