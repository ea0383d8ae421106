"""Settings of training and mapper: value by default, meaning, unit and bounds, each stated once.

The config's schema, the checks, the estimate and the training read them here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from proxykv.config.settings.bounds import TYPES, Bounds, Count, Index, Odd, Part
from proxykv.config.settings.signals import CHUNK, Kind, Signal
from proxykv.runtime.errors import ConfigError

Positive = Annotated[float, Bounds(above=0)]
NotNegative = Annotated[float, Bounds(minimum=0)]
Share = Annotated[float, Bounds(minimum=0, below=1)]
Variant = Literal["hybrid", "linear"]
Device = Annotated[
    str,
    Bounds(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$", expected="auto, cpu, cuda or cuda:<number>"),
]

COUNTLESS = ("choice", "switch", "dimensionless")
"""Units of values that count nothing."""
WEIGHT = {"type": "number", "minimum": 0}

LOSS = Path(__file__).resolve().parents[2] / "mapper" / "loss.py"
"""The terms of the loss. They are read from its source, since it loads torch."""
DECORATOR, SUFFIX = "loss_term", "_loss"


@cache
def term_weights() -> Mapping[str, float]:
    """Default weight of every term, in the order of the source; 0 for a term that is off."""
    return {
        node.name.removesuffix(SUFFIX): float(ast.literal_eval(call.args[0]))
        for node in ast.parse(LOSS.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and ast.unparse(call.func) == DECORATOR
    }


def default_weights() -> dict[str, float]:
    """Terms that are trained with where a config states no weights."""
    return {name: weight for name, weight in term_weights().items() if weight}


def about(meaning: str, unit: str, schema: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Metadata of a setting.

    Args:
        meaning: what it decides.
        unit: what its values count, or one of `COUNTLESS`.
        schema: JSON schema of a mapping; that of other values follows from the annotation.
    """
    return {"meaning": meaning, "unit": unit, "schema": schema}


def schema_of(settings: type) -> dict[str, Any]:
    """JSON schema of a config's section that sets fields of a dataclass of settings."""
    hints = get_type_hints(settings, include_extras=True)
    properties = {
        f.name: {
            "description": _described(**f.metadata),
            "default": _plain(getattr(settings(), f.name)),
            **(f.metadata["schema"] or _values(hints[f.name])),
        }
        for f in fields(settings)
    }
    return _mapping(properties)


def _mapping(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _described(meaning: str, unit: str, schema: object) -> str:
    return meaning if unit in COUNTLESS else f"{meaning} ({unit})"


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _values(hint: Any) -> dict[str, Any]:
    """JSON schema of the values that an annotation allows."""
    if get_origin(hint) is Annotated:
        base, *bounds = get_args(hint)
        return _values(base) | {k: v for bound in bounds for k, v in bound.schema().items()}
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    kind = {"type": TYPES[(get_origin(hint) or hint).__name__]}
    return {**kind, "items": _values(*get_args(hint))} if get_args(hint) else kind


@dataclass(frozen=True, kw_only=True)
class MapperSettings:
    """Widths and stages of a mapper. The pair's models give the rest of its shape."""

    variant: Variant = field(
        default="hybrid",
        metadata=about("three stages, or one matrix per token as a control", "choice"),
    )
    conv_channels: Count = field(
        default=16, metadata=about("features of each proxy head", "channels")
    )
    kernel: Odd = field(
        default=7, metadata=about("tokens that a convolution of the first stage sees", "tokens")
    )
    conv_blocks: Count = field(
        default=2, metadata=about("convolutions of the first stage", "layers")
    )
    time_width: Count = field(
        default=64, metadata=about("width of the context encoder", "channels")
    )
    time_dilations: Sequence[Count] = field(
        default=(1, 4, 16),
        metadata=about("distance between the three tokens that each encoder layer sees", "tokens"),
    )
    width: Count = field(
        default=32,
        metadata=about(
            "width of the attention over proxy heads, a multiple of attention_heads", "channels"
        ),
    )
    attention_heads: Count = field(
        default=2, metadata=about("heads of the attention over proxy heads", "heads")
    )
    dropout: Share = field(
        default=0.1,
        metadata=about("share of the encoder's inputs and outputs that is zeroed", "dimensionless"),
    )
    conv: bool = field(
        default=True, metadata=about("whether the first stage sees neighbouring tokens", "switch")
    )
    time: bool = field(default=True, metadata=about("whether there is a context encoder", "switch"))
    head: bool = field(
        default=True,
        metadata=about(
            "attention over proxy heads; off: a fixed mix of them for each target head", "switch"
        ),
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ConfigError: if a field is impossible, or two do not fit together.
        """
        if self.variant not in get_args(Variant):
            raise ConfigError(f"mapper: unknown variant {self.variant!r}; choose hybrid or linear")
        if self.kernel % 2 == 0:
            raise ConfigError(f"mapper: kernel {self.kernel} is even; choose an odd number")
        if self.width % self.attention_heads:
            raise ConfigError(
                f"mapper: width {self.width} is not a multiple of attention_heads "
                f"{self.attention_heads}; choose a multiple"
            )
        object.__setattr__(self, "time_dilations", tuple(self.time_dilations))


@dataclass(frozen=True)
class TrainingSettings:
    """How a mapper is trained. A method's own parameters override the run's `training`."""

    steps: Count = field(default=500, metadata=about("most optimiser steps", "steps"))
    batch: Count = field(default=2, metadata=about("contexts in each step", "contexts"))
    crop: Count = field(
        default=2048,
        metadata=about("most tokens of a context in a step, a random window", "tokens"),
    )
    signal: Kind = field(
        default="kvzip",
        metadata=about(
            "what the mapper reads: the proxy's KVzip scores (kvzip), with a replay that attends "
            "to its chunk alone (local), of windows prefilled apart (windowed), or the attention "
            "of its prefill (prefill)",
            "choice",
        ),
    )
    signal_chunk: Count = field(
        default=CHUNK,
        metadata=about("context tokens of a replay of the proxy, or of a window", "tokens"),
    )
    signal_overlap: Index = field(
        default=0, metadata=about("tokens before a window that its prefill sees", "tokens")
    )
    proxy_layers: Part = field(
        default=1.0,
        metadata=about("share of the proxy's layers that run, from the first on", "dimensionless"),
    )
    lr: Positive = field(
        default=6e-3, metadata=about("learning rate after the warm-up", "dimensionless")
    )
    warmup: Index = field(
        default=25, metadata=about("steps in which the learning rate rises", "steps")
    )
    weight_decay: NotNegative = field(
        default=0.01, metadata=about("decoupled weight decay of AdamW", "dimensionless")
    )
    clip: Positive = field(
        default=1.0, metadata=about("norm to which longer gradients are cut", "dimensionless")
    )
    seed: Index = field(
        default=0,
        metadata=about(
            "seed of weights, order, windows and dropout; by default the run's", "dimensionless"
        ),
    )
    val_contexts: Count = field(
        default=8,
        metadata=about("contexts that choose the best step and are not trained on", "contexts"),
    )
    log_every: Count = field(
        default=10, metadata=about("steps between log lines with the fidelity", "steps")
    )
    eval_every: Count = field(
        default=100, metadata=about("steps between evaluations and checkpoints", "steps")
    )
    patience: Count = field(
        default=5,
        metadata=about("evaluations without improvement that end the training", "evaluations"),
    )
    device: Device = field(
        default="cpu",
        metadata=about(
            "where to train: auto (a GPU if there is one), cpu, cuda or cuda:<number>", "choice"
        ),
    )
    weights: Mapping[str, float] = field(
        default_factory=default_weights,
        metadata=about(
            "weight of each term of the loss; a term that is left out is off",
            "dimensionless",
            schema=_mapping(dict.fromkeys(term_weights(), WEIGHT)),
        ),
    )
    calibrated: bool = field(
        default=True,
        metadata=about(
            "whether each head's scores get the distribution of its true ones", "switch"
        ),
    )
    mapper: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=about(
            "settings of the mapper that differ from their defaults",
            "settings",
            schema=schema_of(MapperSettings),
        ),
    )

    @property
    def reads(self) -> str:
        """Name of the stored signal that the mapper reads."""
        return Signal.of(asdict(self)).name

    def __post_init__(self) -> None:
        """Refuse a loss without terms.

        Raises:
            ConfigError: if every weight is zero.
        """
        if not any(self.weights.values()):
            raise ConfigError("weights: all are zero; give at least one term a weight")


def training_problems(values: Mapping[str, Any], where: str) -> Iterator[str]:
    """Settings of training that the schema admits and that do not fit together.

    Args:
        values: the section `training`, or the parameters of a method that is trained.
        where: where they are in the config.
    """
    names = {field.name for field in fields(TrainingSettings)}
    training = {name: value for name, value in values.items() if name in names}
    for settings, stated in (
        (TrainingSettings, training),
        (MapperSettings, values.get("mapper", {})),
    ):
        try:
            settings(**stated)
        except ConfigError as error:
            yield f"{where}.{error}"
