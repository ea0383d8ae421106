"""Folder of a fitted method: its tensors, and a card that says what they were fitted on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from proxykv.mapper import tensor_file
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError

TYPES = (torch.float32, torch.int64)
"""Of fitted numbers, and of indices."""

WEIGHTS_FILE, CARD_FILE = "weights.safetensors", "card.json"


def save_fitted(
    folder: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the tensors, then the card: a folder with a card is complete.

    Args:
        folder: where to write.
        tensors: by name.
        card: what they were fitted on (`family`, `target_hash`, `proxy_hash`, `vocab_hash`,
            `corpus`) and how.

    Returns:
        The card as it was written, with the digest of the tensors as `weights_sha256`.
    """
    weights = folder / WEIGHTS_FILE
    tensor_file.save(weights, tensors)
    written = {**card, "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    files.write_json(folder / CARD_FILE, written)
    return written


def load_fitted(
    folder: Path, expected: Mapping[str, str] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the card that `save_fitted` wrote.

    Args:
        folder: of a fitted method.
        expected: card entries that must agree (see `load_card`).

    Raises:
        ConfigError: if the folder belongs to another pair, is damaged, or holds other numbers than
            finite ones of `TYPES`.
    """
    card = load_card(folder, expected)
    path = folder / WEIGHTS_FILE
    if hashlib.sha256(path.read_bytes()).hexdigest() != card["weights_sha256"]:
        raise ConfigError(
            f"{folder}: {WEIGHTS_FILE} and {CARD_FILE} do not belong together; fit it again"
        )
    tensors = load_file(path)
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.dtype not in TYPES or not tensor.isfinite().all():
            raise ConfigError(
                f"{path}: {name} holds {kind} that are not finite float32; fit it again, or pull "
                "another mapper"
            )
    return tensors, card


def fill(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Give a module its fitted tensors.

    Args:
        module: that `tensors` are the state of.
        tensors: by name.
        folder: that they come from, for the message.

    Raises:
        ConfigError: if names, shapes or types are not the module's.
    """
    own = {name: (each.shape, each.dtype) for name, each in module.state_dict().items()}
    if {name: (each.shape, each.dtype) for name, each in tensors.items()} != own:
        raise ConfigError(f"{folder}: its tensors are not those of its card; fit it again")
    module.load_state_dict(dict(tensors))


def copy_fitted(source: Path, folder: Path, expected: Mapping[str, str]) -> Path:
    """Copy the tensors and the card of a fitted method, once they are checked.

    Args:
        source: folder of a fitted method.
        folder: where to write.
        expected: card entries that must agree (see `load_card`).

    Returns:
        `folder`.

    Raises:
        ConfigError: if the source belongs to another pair, or is damaged.
    """
    tensors, card = load_fitted(source, expected)
    save_fitted(folder, tensors, card)
    return folder


def load_card(folder: Path, expected: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read the card of a fitted method.

    Args:
        folder: of a fitted method.
        expected: card entries that must agree, such as the pair's `target_hash`.

    Raises:
        ConfigError: if nothing is fitted there, or it belongs to another pair.
    """
    if not (folder / CARD_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise ConfigError(f"{folder}: nothing fitted here; fit the method for this family first")
    card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    require_pair(folder, card, expected or {})
    return card


def require_pair(folder: Path, card: Mapping[str, Any], expected: Mapping[str, str]) -> None:
    """Check that a fitted method belongs to a pair of models.

    Args:
        folder: of the fitted method.
        card: its card.
        expected: entries that must agree, such as the pair's `target_hash`.

    Raises:
        ConfigError: if an entry is missing or differs; the message names it.
    """
    for key, value in expected.items():
        if key not in card:
            raise ConfigError(f"{folder}: an earlier version fitted it (no {key}); fit it again")
        if card[key] != value:
            raise ConfigError(
                f"{folder}: fitted for {key} {card[key]!r}, this pair has {value!r}; "
                "fit it for this pair"
            )
