"""Inputs of the target's attention layers, for a sample of a training context's tokens.

Some methods are fitted on them. They are stored in a separate file next to a context's scores, so
that runs without such methods need not store them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from proxykv.mapper import tensor_file
from proxykv.model.model import Model
from proxykv.model.prefill import prefill
from proxykv.model.tensors import Ids, Scores
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.hidden_states import observed
from proxykv.scoring.seeded import generator, window

Inputs = Literal["hidden", "embedding"]

MAX_BYTES: Mapping[str, int] = {"hidden": 12_000_000, "embedding": 3_000_000}
"""Most bytes that are stored of a context, by kind: all tokens of a small model, 140 tokens of one
with 28 layers of width 1536."""


def inputs_file(scores: Path) -> Path:
    """File of the inputs that belongs to a context's score file."""
    return scores.with_suffix(".inputs.safetensors")


def sample_inputs(model: Model, ids: Ids, prefix_len: int, name: str) -> dict[str, Tensor]:
    """Prefill a context and sample the inputs of its attention layers.

    Args:
        model: the target.
        ids: token ids of prefix + context (1-D).
        prefix_len: tokens before the context, which are not sampled.
        name: seeds the draw of the tokens.

    Returns:
        In float16, `hidden` [layer, token, width]: the inputs of every layer, for tokens drawn at
        random; `embedding` [1, token, width]: those of the first layer, which are the normalised
        token embeddings, for consecutive tokens. `hidden_tokens` and `embedding_tokens` are the
        indices of these tokens in the context.
    """
    config = model.net.config
    draws = generator(name)
    n = len(ids) - prefix_len
    hidden_count, embedding_count = (
        min(n, MAX_BYTES[kind] // (2 * config.hidden_size * layers))
        for kind, layers in (("hidden", config.num_hidden_layers), ("embedding", 1))
    )
    scattered = torch.randperm(n, generator=draws)[:hidden_count].sort().values
    consecutive = torch.arange(n)[window(n, embedding_count, draws)]
    hidden: list[Tensor] = []
    first: list[Tensor] = []

    def store(layer: int, inputs: Float[Tensor, "token width"]) -> None:
        inputs = inputs[prefix_len:]
        hidden.append(inputs[scattered.to(inputs.device)].half().cpu())
        if layer == 0:
            first.append(inputs[consecutive.to(inputs.device)].half().cpu())

    with observed(model, store):
        prefill(model, ids, prefix_len)
    return {
        **{"hidden": torch.stack(hidden), "hidden_tokens": scattered},
        **{"embedding": torch.stack(first), "embedding_tokens": consecutive},
    }


def load_inputs(
    path: Path,
    kind: str = "hidden",
    device: str | torch.device = "cpu",
    crop: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "source token width"], Scores]:
    """Read the stored inputs of a context and the target's scores of the same tokens.

    Args:
        path: the context's score file.
        kind: `hidden` or `embedding` (see `sample_inputs`).
        device: where to put them.
        crop: most tokens to read; of more, a random window.
        generator: draws the window.

    Returns:
        Inputs and scores, float32.

    Raises:
        ConfigError: if no inputs are stored.
    """
    if not inputs_file(path).is_file():
        raise ConfigError(
            f"{path}: the inputs of the target's layers are not stored; extract them again"
        )
    with tensor_file.opened(inputs_file(path)) as stored:
        inputs, tokens = stored.get_tensor(kind), stored.get_tensor(f"{kind}_tokens")
    part = window(len(tokens), crop, generator)
    with tensor_file.opened(path) as stored:
        target = stored.get_tensor("target")
    return inputs[:, part].to(device).float(), target[..., tokens[part]].to(device).float()
