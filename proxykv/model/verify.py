"""Can this family run here? Verified from configs and tokenizers, without weights or a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from proxykv.config import catalog, check
from proxykv.config.cost.placement import DeviceNeed, advice, fits, memory_table, needs, room
from proxykv.config.keys.model_files import refuse_weights
from proxykv.config.models import (
    Shape,
    heads,
    model_folder,
    model_shape,
    require_same_shape,
)
from proxykv.config.run import ROLES
from proxykv.kernels.choice import Choice, choose
from proxykv.model.architecture import load_config
from proxykv.model.devices import device_of
from proxykv.model.prompt.template import chat_template
from proxykv.model.prompt.tokenizer import load_tokenizer
from proxykv.model.prompt.vocabulary import require_shared_vocabulary
from proxykv.runtime import hub
from proxykv.runtime.errors import ConfigError

LENGTHS = (4_096, 8_192, 16_384, 32_768, 65_536, 131_072, 170_000, 262_144)
"""Context lengths that memory is estimated for, as far as the family may see them."""


class _NotMadeError(ConfigError):
    """A model that the workflow converts, before it has."""


def verify(name: str, cache: Path) -> Iterator[str]:
    """Compare a family's configs and tokenizers with its file, and estimate its memory.

    Before a model is converted, or without the hub, there are no files to compare. Then two lines
    say so, and estimate memory from the shapes that the family's file states.

    Args:
        name: of the family.
        cache: the folder that runs share, where converted models are.

    Yields:
        Lines for people.

    Raises:
        ConfigError: if there is no such family, its tokenizers differ, an architecture is not
            supported, or the family's file states another shape than a model has.
    """
    families = catalog.families()
    if name not in families:
        raise ConfigError(f"no family {name!r}; {check.did_you_mean(name, families)}")
    if problems := check.schema_problems(families[name], "family", f"config/families/{name}.yaml"):
        raise ConfigError("\n".join(problems))
    family = families[name]
    try:
        folders = {role: _folder(family, role, cache) for role in ROLES}
    except (hub.UnreachableError, _NotMadeError) as error:
        shapes = {role: model_shape(family, role, cache) for role in ROLES}
        away = isinstance(error, hub.UnreachableError)
        why = f"hub not reached ({error})" if away else f"model not made ({error})"
        yield from _by_file(_with_shapes(family, shapes), why)
        return
    lines, tokenizers, shapes = [], [], {}
    for role, folder in folders.items():
        source = family[role].get("hub", folder)
        config = load_config(folder, family[role].get("rope_scaling"))
        tokenizers.append(load_tokenizer(folder))
        if family[role]["chat"]:
            chat_template(tokenizers[-1], family[role].get("chat_options", {}))
        shapes[role] = _shape(config)
        where = f"config/families/{name}.yaml.{role}"
        require_same_shape(family[role].get("shape", {}), shapes[role], where, source)
        shown = ", ".join(f"{k}: {v}" for k, v in shapes[role].items())
        lines += [f"{role}: {source}: {config.model_type}, shape: {{{shown}}}"]
    require_shared_vocabulary(*tokenizers)
    yield from lines
    yield f"tokenizers: identical, {len(tokenizers[0].get_vocab()):,} pieces"
    family = _with_shapes(family, shapes)
    yield "kernels on this machine: " + "; ".join(f"{r}: {_kernels(family[r])}" for r in ROLES)
    yield from _memory(family)


def _kernels(model: Mapping[str, Any]) -> Choice:
    """Which implementation of the kernels a model runs on here, and why."""
    dtype = getattr(torch, model["dtype"])
    return choose(device_of("auto"), dtype, model["shape"]["head_dim"])


def _folder(family: Mapping[str, Any], role: str, cache: Path) -> Path:
    """Config and tokenizer of a model: its folder if that is there, else from the hub."""
    folder, model = model_folder(family, role, cache), family[role]
    if (folder / "config.json").is_file():
        refuse_weights(folder)
        return folder
    if "hub" in model:
        return hub.download(model["hub"], model["revision"], hub.CONFIG_FILES, kind="model")
    if "path" in model:
        raise ConfigError(f"{folder}: not there yet; put the files of a model there")
    raise _NotMadeError(
        f"{folder} is not there yet; `snakemake -c1 {folder}/provenance.json --configfile <file>` "
        "makes it, with a config that lists the family"
    )


def _shape(config: Any) -> Shape:
    """Shape of the model that a config describes, without its weights."""
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    return {**heads(config.to_dict()), "parameters": parameters}


def _with_shapes(family: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
    """A family's entries with the shape of each model."""
    return {**family, **{role: {**family[role], "shape": shapes[role]} for role in ROLES}}


def _by_file(family: Mapping[str, Any], why: str) -> Iterator[str]:
    """What can be said of a family without its models' files."""
    yield (
        f"{why}: configs and tokenizers are not compared with "
        f"config/families/{family['family']}.yaml"
    )
    devices = []
    for found in _by_device(family):
        fitting = [n for n, need in found.items() if need.total <= room(family, need.device)]
        said = f"{fitting[-1]:,} tokens fit" if fitting else "DOES NOT FIT"
        devices.append(f"{_named(family, next(iter(found.values())))}: {said}")
    yield f"by the shapes in that file, of at most {_lengths(family)[-1]:,} tokens: " + "; ".join(
        devices
    )
    yield from memory_table(family)


def _memory(family: Mapping[str, Any]) -> Iterator[str]:
    """Per device and length: what models that share it need, and whether they fit."""
    for found in _by_device(family):
        yield f"device {_named(family, next(iter(found.values())))}:"
        for tokens, need in found.items():
            shown = " + ".join(f"{kind} {size / 1e9:.1f}" for kind, size in need.parts.items())
            said = "fits" if need.total <= room(family, need.device) else "DOES NOT FIT"
            total = need.total / 1e9
            yield f"  {tokens:>7,} tokens: {shown}, with headroom {total:.1f} GB: {said}"
    if not fits(family, family["max_context"]):
        yield advice(family, family["max_context"])
    yield from memory_table(family)


def _by_device(family: Mapping[str, Any]) -> list[dict[int, DeviceNeed]]:
    """For each device, what it must hold at each length."""
    lengths = _lengths(family)
    by_length = zip(*(needs(family, n) for n in lengths), strict=True)
    return [dict(zip(lengths, found, strict=True)) for found in by_length]


def _named(family: Mapping[str, Any], need: DeviceNeed) -> str:
    """A device with what it holds, and its memory."""
    layers = family["target"]["shape"]["layers"]
    part = "target" if need.layers == layers else f"{need.layers} of the target's {layers} layers"
    holds = [part] * (need.layers > 0) + ["proxy"] * (need.proxy > 0)
    return f"{need.device} ({' + '.join(holds)}), {room(family, need.device) / 1e9:.0f} GB"


def _lengths(family: Mapping[str, Any]) -> list[int]:
    """Context lengths that the family may see."""
    return [n for n in LENGTHS if n <= family["max_context"]] or [family["max_context"]]
