"""Can this family run here? Verified from configs and tokenizers, without weights or a GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from proxykv.config import catalog, check
from proxykv.config.run import ROLES, model_folder
from proxykv.model.loading import refuse_unsupported, require_shared_vocabulary
from proxykv.runtime.errors import ConfigError

LENGTHS = (4_096, 8_192, 16_384, 32_768, 65_536, 131_072, 170_000, 262_144)
"""Context lengths that memory is estimated for, as far as the family may see them."""

HEADROOM = 1.1
"""Activations and the allocator's slack, over what is counted."""


def verify(name: str, cache: Path) -> Iterator[str]:
    """Lines that say what was verified of a family, and what memory it needs at which length.

    `cache`: the runs' shared folder, where converted models are.

    Raises:
        ConfigError: if there is no such family, its tokenizers differ, an architecture is not
            supported, or a shape is not the one that the family file states.
    """
    families = catalog.families()
    if name not in families:
        raise ConfigError(f"no family {name!r}; {check.did_you_mean(name, families)}")
    if problems := check.schema_problems(families[name], "family", f"config/families/{name}.yaml"):
        raise ConfigError("\n".join(problems))
    family = families[name]
    tokenizers = []
    for role in ROLES:
        source, options = _source(family[role], model_folder(family, role, cache))
        try:
            config = AutoConfig.from_pretrained(source, **options)
            tokenizers.append(AutoTokenizer.from_pretrained(source, **options))
        except OSError as error:
            why = str(error).split("\n", maxsplit=1)[0]
            raise ConfigError(f"{name} {role}: cannot read {source}: {why}") from error
        refuse_unsupported(config, f"{name} {role}")
        _compare(config, family[role]["shape"], f"config/families/{name}.yaml, {role}")
        shown = ", ".join(f"{k} {v:,}" for k, v in family[role]["shape"].items())
        yield f"{role}: {source}: {config.model_type}, {shown}"
    require_shared_vocabulary(*tokenizers)
    yield f"tokenizers: identical, {len(tokenizers[0].get_vocab()):,} pieces"
    yield from _memory(family)


def bytes_needed(model: Mapping[str, Any], tokens: int) -> dict[str, int]:
    """Bytes of a family file's model at a context length: weights, KV cache, float32 scores."""
    shape = model["shape"]
    size = getattr(torch, model["dtype"]).itemsize
    pairs = shape["layers"] * shape["kv_heads"] * tokens
    return {
        "weights": shape["parameters"] * size,
        "cache": 2 * pairs * shape["head_dim"] * size,
        "scores": 4 * pairs,
    }


def _source(model: Mapping[str, Any], folder: Path) -> tuple[str, dict[str, str]]:
    """Name and options for `from_pretrained`: the local folder if it is there, else the hub's."""
    if (folder / "config.json").is_file():
        return str(folder), {}
    if "hub" in model:
        return model["hub"], {"revision": model["revision"]}
    raise ConfigError(f"{folder}: not there yet; `snakemake -c1 {folder}/provenance.json` makes it")


def _compare(config: Any, shape: Mapping[str, int], where: str) -> None:
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found = {
        "layers": config.num_hidden_layers,
        "query_heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": width,
        "parameters": parameters,
    }
    if found != shape:
        raise ConfigError(f"{where}: shape is {dict(shape)}, but the model's is {found}")


def _memory(family: Mapping[str, Any]) -> Iterator[str]:
    """Per device and length: what models that share it need, and whether they fit."""
    shared = defaultdict(list)
    for role in ROLES:
        shared[family[role]["device"]].append(role)
    resources = family["resources"]
    on_gpu = resources["gpu"] > 0
    for device, roles in shared.items():
        room = (resources.get("gpu_mb") if on_gpu and device != "cpu" else resources["mem_mb"]) or 0
        yield f"device {device} ({' + '.join(roles)}), {room / 1000:.0f} GB:"
        for tokens in (n for n in LENGTHS if n <= family["max_context"]):
            parts = [bytes_needed(family[role], tokens) for role in roles]
            kinds = {kind: sum(part[kind] for part in parts) / 1e9 for kind in parts[0]}
            total = sum(kinds.values()) * HEADROOM
            shown = " + ".join(f"{kind} {gigabytes:.1f}" for kind, gigabytes in kinds.items())
            fits = "fits" if total * 1000 <= room else "DOES NOT FIT"
            yield f"  {tokens:>7,} tokens: {shown}, with headroom {total:.1f} GB: {fits}"
