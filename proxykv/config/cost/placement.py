"""A pair on its devices: where the target's layers are, and what every device must hold.

The plan depends on the family's file alone, so that all machines split a model alike.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxykv.config.cost.speed import BYTES, ModelCost
from proxykv.config.models import stored_shape
from proxykv.runtime.errors import ConfigError

HEADROOM = 1.05
"""The allocator's slack and the driver's memory, over what is counted."""

LENGTHS = (32768, 65536, 131072)
"""Context lengths of the table."""

STEP = 1024
"""Tokens between two lengths that are tried when a context does not fit."""

HEADS = (
    *("tokens", "device", "layers", "weights", "cache", "activations", "scores", "proxy", "total"),
    "of",
)

Family = Mapping[str, Any]
"""Contents of a family's file, with the shape of both models."""


@dataclass(frozen=True)
class DeviceNeed:
    """What a device must hold while it reads a context, in bytes.

    Attributes:
        device: its name in the family's file.
        layers: layers of the target on it.
        weights: of these layers; with embeddings and LM head where forwards begin and end.
        cache: keys and values of these layers.
        activations: of one layer of the target, whose whole context is one forward.
        scores: the target's, float32, where forwards begin and end.
        proxy: weights, cache, activations and scores of the proxy.
    """

    device: str
    layers: int
    weights: float = 0
    cache: float = 0
    activations: float = 0
    scores: float = 0
    proxy: float = 0

    @property
    def parts(self) -> dict[str, float]:
        """Bytes by what they hold, without what this device does not hold."""
        names = "weights", "cache", "activations", "scores", "proxy"
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def total(self) -> float:
        """Everything, with headroom."""
        return HEADROOM * sum(self.parts.values())


def devices_of(model: Mapping[str, Any]) -> list[str]:
    """Devices that share a model's layers, in order; usually one."""
    return list(dict.fromkeys(model["device"].split(",")))


def layer_devices(family: Family) -> list[str]:
    """Device of each layer of the target.

    The fullest device has as little to hold as possible, at the family's longest context. Forwards
    begin and end on the first device, which holds embeddings and LM head, too.
    """
    model, devices = family["target"], devices_of(family["target"])
    cost = ModelCost(model["shape"], model["dtype"])
    ends = _ends(model)
    layer = (cost.weights - ends + cost.cache(family["max_context"])) / cost.layers
    held = [ends if device == devices[0] else 0.0 for device in devices]
    if (proxy := family.get("proxy")) and proxy["device"] in devices:
        held[devices.index(proxy["device"])] += _whole(proxy, family["max_context"])
    shares = balanced(cost.layers, layer, held)
    return [device for device, share in zip(devices, shares, strict=True) for _ in range(share)]


def local_layer_devices(
    folders: Mapping[str, Path], models: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Device of each layer of a target in a local folder, as of a family with these models.

    Planned for the longest text that the target's config allows.

    Args:
        folders: transformers folders of the target and, where there is one, of the proxy.
        models: `device` of each, of which the target's may name several, and `dtype` (float32 by
            default).

    Returns:
        An empty list where there is nothing to plan: one device, or a folder without a model.

    Raises:
        ConfigError: if a folder's config or weights cannot be read, or a dtype has no plan.
    """
    if len(devices_of(models["target"])) == 1:
        return []
    dtypes = {role: models[role].get("dtype", "float32") for role in folders}
    if unknown := set(dtypes.values()) - set(BYTES):
        raise ConfigError(
            f"dtype {min(unknown)!r}: several devices share models of {', '.join(BYTES)} only"
        )
    shapes = {role: stored_shape(folder) for role, folder in folders.items()}
    if not all("parameters" in shape for shape in shapes.values()):
        return []  # loading says what is missing
    configs = {
        role: json.loads((folder / "config.json").read_text("utf-8"))
        for role, folder in folders.items()
    }
    planned = {
        role: {
            "device": models[role]["device"],
            "dtype": dtypes[role],
            "shape": shapes[role],
            "architecture": configs[role],
        }
        for role in folders
    }
    window = configs["target"].get("max_position_embeddings", LENGTHS[0])
    return layer_devices({**planned, "max_context": window})


def balanced(layers: int, layer: float, held: Sequence[float]) -> list[int]:
    """Deal out equal layers so that the fullest device has as little to hold as possible.

    Args:
        layers: how many there are.
        layer: bytes of one.
        held: bytes that each device holds without them.

    Returns:
        Layers of each device.
    """
    shares = [0] * len(held)
    for _ in range(layers):
        emptiest = min(range(len(held)), key=lambda i: held[i] + shares[i] * layer)
        shares[emptiest] += 1
    return shares


def needs(family: Family, tokens: int) -> Iterator[DeviceNeed]:
    """What every device of a family must hold for a context.

    Args:
        family: the family.
        tokens: of the context.

    Yields:
        The target's devices in order, then the proxy's if it is another one.
    """
    model, proxy = family["target"], family["proxy"]
    cost = ModelCost(model["shape"], model["dtype"])
    ends, shares = _ends(model), Counter(layer_devices(family))
    first, *_ = devices_of(model)
    for device in dict.fromkeys([*devices_of(model), proxy["device"]]):
        share = shares[device] / cost.layers
        yield DeviceNeed(
            device,
            shares[device],
            weights=share * (cost.weights - ends) + (ends if device == first else 0),
            cache=share * cost.cache(tokens),
            activations=_activations(model, tokens) if share else 0,
            scores=4 * cost.pairs * tokens if device == first else 0,
            proxy=_whole(proxy, tokens) if device == proxy["device"] else 0,
        )


def room(family: Family, device: str) -> float:
    """Bytes of a device: what the family's file says that each must have.

    Args:
        family: the family.
        device: one of its devices.
    """
    resources = family["resources"]
    on_gpu = resources["gpu"] > 0 and device != "cpu"
    return 1e6 * (resources.get("gpu_mb", 0) if on_gpu else resources["mem_mb"])


def fits(family: Family, tokens: int) -> bool:
    """Whether every device can hold what it must for a context.

    Args:
        family: the family.
        tokens: of the context.
    """
    return all(need.total <= room(family, need.device) for need in needs(family, tokens))


def advice(family: Family, tokens: int) -> str:
    """What to lower where a context does not fit.

    Args:
        family: the family.
        tokens: of the context.
    """
    shorter = range(STEP, tokens, STEP)
    most = STEP * bisect_left(shorter, True, key=lambda n: not fits(_for(family, n), n))
    lower = f"lower `max_context` to {most:,}" if most else "choose smaller models"
    return (
        f"{tokens:,} tokens do not fit: {lower} in config/families/{family['family']}.yaml, or "
        "name more devices there: one for the proxy alone, several for the target (cuda:0,cuda:1)"
    )


def memory_table(family: Family) -> Iterator[str]:
    """A line for each length and device of a family whose target is on several devices.

    Lengths that the family may not see are planned as if it might.
    """
    if len(devices_of(family["target"])) == 1:
        return
    yield (
        f"  {family['family']}, computed: GB that each device holds, with {HEADROOM - 1:.0%} of "
        f"headroom in the total; max_context is {family['max_context']:,}"
    )
    yield _line(HEADS)
    for tokens in LENGTHS:
        planned = _for(family, tokens)
        for need in needs(planned, tokens):
            held = (need.weights, need.cache, need.activations, need.scores, need.proxy, need.total)
            size = room(family, need.device)
            cells = (f"{part / 1e9:.1f}" for part in (*held, size))
            yield _line((f"{tokens}", need.device, f"{need.layers}", *cells))
        if not fits(planned, tokens):
            yield f"  {advice(family, tokens)}"


def _for(family: Family, tokens: int) -> Family:
    """The family, planned for at least so many tokens."""
    return {**family, "max_context": max(tokens, family["max_context"])}


def _line(cells: Sequence[str]) -> str:
    return "  " + "  ".join(
        f"{cell:>{max(len(h), 7)}}" for cell, h in zip(cells, HEADS, strict=True)
    )


def _whole(model: Mapping[str, Any], tokens: int) -> float:
    """Bytes of a model that is on one device."""
    cost = ModelCost(model["shape"], model["dtype"])
    return cost.weights + cost.cache(tokens) + _activations(model, tokens) + 4 * cost.pairs * tokens


def _ends(model: Mapping[str, Any]) -> int:
    """Bytes of the embeddings and of the LM head; 0 where the family's file does not tell."""
    if not (architecture := model.get("architecture")):
        return 0
    matrices = 1 if architecture.get("tie_word_embeddings") else 2
    cost = ModelCost(model["shape"], model["dtype"])
    return matrices * architecture["vocab_size"] * architecture["hidden_size"] * cost.size


def _activations(model: Mapping[str, Any], tokens: int) -> float:
    """Bytes of one layer's activations; 0 where the family's file does not tell.

    The residual and its norm; and three tensors of the MLP (gate, up, product), or queries in six
    (with their norm in float32 and RoPE), whichever takes more.
    """
    if not (architecture := model.get("architecture")):
        return 0.0
    cost = ModelCost(model["shape"], model["dtype"])
    queries = model["shape"]["query_heads"] * model["shape"]["head_dim"]
    inner = max(3 * architecture["intermediate_size"], 6 * queries)
    return tokens * (2 * architecture["hidden_size"] + inner) * cost.size
