"""What enters the target's attention layers, on a sample of the training contexts' tokens.

For methods that are fitted on it. It lies in a file of its own beside a context's scores, so that
runs without such methods neither make nor miss it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from proxykv.mapper import tensor_file
from proxykv.model.loading import Model
from proxykv.model.prefill import prefill
from proxykv.model.tensors import Ids, Scores
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.hidden_states import observed
from proxykv.scoring.seeded import generator, window

Inputs = Literal["hidden", "embedding"]

BYTES: Mapping[str, int] = {"hidden": 12_000_000, "embedding": 3_000_000}
"""At most so much is stored of a context: all tokens of a small model, 140 of 28 layers x 1536."""


def inputs_file(scores: Path) -> Path:
    """The file beside a context's score file."""
    return scores.with_suffix(".inputs.safetensors")


def sample_inputs(model: Model, ids: Ids, prefix_len: int, name: str) -> dict[str, Tensor]:
    """Inputs of a context's tokens in float16, and the indices of these tokens in the context.

    `hidden` [layer, token, width]: every layer's, of tokens drawn at random; `embedding` [1, token,
    width]: the first layer's, which is the tokens' embedding (normalised), of one stretch. `name`
    decides the draw.
    """
    config = model.net.config
    draws = generator(name)
    n = len(ids) - prefix_len
    few, many = (
        min(n, BYTES[kind] // (2 * config.hidden_size * layers))
        for kind, layers in (("hidden", config.num_hidden_layers), ("embedding", 1))
    )
    scattered = torch.randperm(n, generator=draws)[:few].sort().values
    stretch = torch.arange(n)[window(n, many, draws)]
    hidden: list[Tensor] = []
    first: list[Tensor] = []

    def note(layer: int, inputs: Float[Tensor, "token width"]) -> None:
        inputs = inputs[prefix_len:]
        hidden.append(inputs[scattered.to(inputs.device)].half().cpu())
        if layer == 0:
            first.append(inputs[stretch.to(inputs.device)].half().cpu())

    with observed(model, note):
        prefill(model, ids, prefix_len)
    return {
        **{"hidden": torch.stack(hidden), "hidden_tokens": scattered},
        **{"embedding": torch.stack(first), "embedding_tokens": stretch},
    }


def load_inputs(
    path: Path,
    kind: str = "hidden",
    device: str | torch.device = "cpu",
    crop: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "source token width"], Scores]:
    """Inputs of a context and the target's scores of the same tokens, float32.

    `path`: its score file; a random window of `crop` tokens if more are stored. Raises ConfigError
    if no inputs are.
    """
    if not inputs_file(path).is_file():
        raise ConfigError(f"{path}: no inputs of the target's layers beside it; extract them again")
    with tensor_file.opened(inputs_file(path)) as stored:
        inputs, tokens = stored.get_tensor(kind), stored.get_tensor(f"{kind}_tokens")
    part = window(len(tokens), crop, generator)
    with tensor_file.opened(path) as stored:
        target = stored.get_tensor("target")
    return inputs[:, part].to(device).float(), target[..., tokens[part]].to(device).float()
