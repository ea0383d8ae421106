"""Which models can be pruned: the architecture and the RoPE that a config.json names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.quantizers.auto import AutoHfQuantizer

from proxykv.runtime.errors import ConfigError

SUPPORTED = ("llama", "qwen2", "qwen3")
"""Architectures whose logits are those of body and LM head alone, with full attention; tested."""

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""RoPE whose frequencies depend on the config alone, and which turns whole heads. With `dynamic`
and `longrope` they depend on the lengths that the model has seen, and a cached key has no fixed
value."""

_NO_NUMBERS = ("rope_type", "type", "truncate", "mrope_section")
"""Entries of RoPE's parameters that are no positive numbers."""

_WINDOWED = {"sliding_attention", "chunked_attention"}


def load_config(folder: Path, rope_scaling: Mapping[str, Any] | None = None) -> Any:
    """Load a model's config, and check that its attention can be pruned.

    Args:
        folder: a transformers folder.
        rope_scaling: changes to the config's `rope_parameters`.

    Raises:
        ConfigError: if there is no usable config.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}: no config.json; expected a transformers model folder")
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # whatever the checks of some architecture may raise
        why = " ".join(str(error).split())
        raise ConfigError(f"{folder}: config.json cannot be used: {why}") from error
    if rope_scaling:
        config.rope_parameters = {**(config.rope_parameters or {}), **rope_scaling}
    refuse_unsupported(config, folder)
    return config


def refuse_unsupported(config: Any, where: object) -> None:
    """Refuse a model whose attention cannot be pruned here.

    Args:
        config: configuration of the model (transformers).
        where: name of the model, for the message.

    Raises:
        ConfigError: which names the reason.
    """
    layers = set(getattr(config, "layer_types", None) or [])
    kinds = layers - {"full_attention"}
    parameters = getattr(config, "rope_parameters", None) or {}
    rope = parameters.get("rope_type", "default")
    packed = getattr(config, "quantization_config", None) or {}
    unusable = [k for k, v in parameters.items() if k not in _NO_NUMBERS and not _positive(v)]
    if getattr(config, "kv_lora_rank", None):
        why = "multi-latent attention stores one latent for all heads, not keys and values per head"
    elif kinds - _WINDOWED:
        other = ", ".join(sorted(kinds - _WINDOWED))
        why = f"{other} layers keep a state instead of keys and values"
    elif kinds or (not layers and getattr(config, "sliding_window", None)):
        why = "sliding-window attention drops keys by itself, and no full cache exists"
    elif config.model_type not in SUPPORTED:
        why = f"its architecture is not one of {', '.join(SUPPORTED)}"
    elif "quant_method" in packed and not AutoHfQuantizer.supports_quant_method(packed):
        why = f"transformers does not know the quant_method {packed['quant_method']!r}"
    elif nested := [kind for kind, value in parameters.items() if isinstance(value, Mapping)]:
        why = f"its RoPE differs between layers (rope_parameters has {nested[0]!r})"
    elif rope not in ROPE_TYPES:
        why = (
            f"its rope_type {rope!r} is none of {', '.join(ROPE_TYPES)}, whose keys do not depend "
            "on the lengths that the model has seen"
        )
    elif parameters.get("type", rope) != rope:
        why = f"RoPE's rope_type is {rope!r}, its type {parameters['type']!r}; remove one of them"
    elif unusable:
        why = f"RoPE's {unusable[0]} is {parameters[unusable[0]]!r}; give a number above 0"
    elif parameters.get("partial_rotary_factor") not in (None, 1):
        why = "RoPE turns a part of each head only (partial_rotary_factor), which is not supported"
    else:
        return
    raise ConfigError(f"{where}: a {config.model_type} model cannot be pruned: {why}")


def _positive(value: Any) -> bool:
    """Whether it is a finite number above 0, or left out."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and 0 < value < math.inf)
