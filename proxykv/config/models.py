"""Models of a family before they are loaded: their folders and their shapes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from proxykv.config import catalog
from proxykv.runtime import files
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError

Shape = Mapping[str, int]
"""`layers`, `query_heads` and `kv_heads` per layer, `head_dim`, `parameters`."""


def model_folder(family: Mapping[str, Any], role: str, cache: Path) -> Path:
    """Transformers folder of a target or proxy: a local one, or the one that it is converted to.

    The name of a converted folder changes with its source.

    Args:
        family: contents of the family's file.
        role: "target" or "proxy".
        cache: the folder that runs share, where converted models are.
    """
    model = family[role]
    if "path" in model:
        return Path(model["path"])
    return cache / "models" / family["family"] / f"{role}-{digest(source_of(model))}"


def source_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the contents of a converted folder; empty for a model in a local folder.

    Args:
        model: the `target` or `proxy` of a family's file.
    """
    # Weights out of wheels are stored in the type that the model computes in.
    keys = ("hub", "revision") if "hub" in model else ("wheels", "dtype")
    return {} if "path" in model else {key: model.get(key) for key in keys}


def model_shape(family: Mapping[str, Any], role: str, cache: Path) -> Shape:
    """Shape of a family's model, from its folder if that is there, else from the family's file.

    Args:
        family: contents of the family's file.
        role: `target` or `proxy`.
        cache: the folder that runs share, where converted models are.

    Raises:
        ConfigError: if neither gives the shape, or the two differ.
    """
    stated: Shape = family[role].get("shape", {})
    # Local folders are below the checkout, wherever the command is called.
    folder = model_folder(family, role, cache)
    found = stored_shape(catalog.ROOT / folder if "path" in family[role] else folder)
    where = f"config/families/{family['family']}.yaml.{role}"
    require_same_shape(stated, found, where, folder)
    if not stated and "parameters" not in found:
        lacks = "weights (*.safetensors)" if found else "config.json"
        raise ConfigError(
            f"{where}: no `shape`, and {folder} has no {lacks}; put the model there or add `shape` "
            f"(`proxykv check --family {family['family']}` shows that of a model on the hub)"
        )
    return stated or found


def positions(family: Mapping[str, Any], role: str, cache: Path) -> int | None:
    """Positions that a family's model was made for; None if its folder is not there.

    Args:
        family: contents of the family's file, whose `rope_scaling` makes them more.
        role: `target` or `proxy`.
        cache: the folder that runs share, where converted models are.
    """
    folder = model_folder(family, role, cache)
    path = (catalog.ROOT / folder if "path" in family[role] else folder) / "config.json"
    if not path.is_file():
        return None
    known = files.read_object(path).get("max_position_embeddings")
    scaling = family[role].get("rope_scaling", {})
    if {"factor", "original_max_position_embeddings"} <= scaling.keys():
        return int(scaling["factor"] * scaling["original_max_position_embeddings"])
    return known


def stored_shape(folder: Path) -> Shape:
    """What a transformers folder says of its model's shape; empty if there is no config.json.

    `parameters` is counted in the headers of the safetensors files, and missing if there are none.

    Raises:
        ConfigError: if config.json or a header cannot be read.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
        shape = heads(config)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error
    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        sizes |= {name: size for name, (_, size) in stored_tensors(path).items()}
    if config.get("tie_word_embeddings"):
        sizes.pop("lm_head.weight", None)  # the embedding a second time
    return {**shape, "parameters": sum(sizes.values())} if sizes else shape


def heads(config: Mapping[str, Any]) -> Shape:
    """Layers, heads and their width, from the contents of a config.json."""
    query_heads = config["num_attention_heads"]
    return {
        "layers": config["num_hidden_layers"],
        "query_heads": query_heads,
        "kv_heads": config.get("num_key_value_heads") or query_heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // query_heads,
    }


def require_same_shape(stated: Shape, found: Shape, where: str, source: Path | str) -> None:
    """Check that a family's file states the shape that the model has.

    Args:
        stated: `shape` of the family's file; empty if it has none.
        found: shape of the model; keys that it lacks are not compared.
        where: file and key of the model's entry.
        source: where `found` was read.

    Raises:
        ConfigError: if the two differ.
    """
    for key, value in found.items():
        if stated.get(key, value) != value:
            raise ConfigError(
                f"{where}.shape.{key}: {stated[key]}, but {source} has {value}; correct it or "
                "remove `shape`"
            )


def stored_tensors(path: Path) -> dict[str, tuple[str, int]]:
    """Type (such as `BF16`) and size of every tensor of a safetensors file, from its header.

    Raises:
        ConfigError: if the header cannot be read.
        PermissionError: if this user may not read the file.
    """
    files.require_readable(path)
    try:
        with safe_open(path, framework="np") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {n: (part.get_dtype(), math.prod(part.get_shape())) for n, part in parts.items()}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return ConfigError(f"{path}: cannot be read: {why}")
