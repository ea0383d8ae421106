"""No proxy: KVzip scores predicted from the target's hidden states (like KVzap, arXiv 2601.07891).

While the target prefills, a small network per layer reads what enters the attention layer and
predicts the scores of its KV heads. It is trained on the same scores as ProxyKV's mapper, with the
same loss. `surrogate_embedding` reads only the tokens and their neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from proxykv.config.settings.bounds import Index, Odd
from proxykv.config.settings.signals import SETTINGS
from proxykv.config.settings.training import TrainingSettings
from proxykv.mapper.calibration import QuantileCalibration
from proxykv.mapper.fitted import fill, load_fitted
from proxykv.mapper.layer_inputs import Inputs, load_inputs
from proxykv.mapper.stored_scores import Predictor
from proxykv.mapper.training.train import train_mapper
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Scores
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.hidden_states import scores_of_another_prefill

VARIANTS = {
    "surrogate": {"scope": "global", "fitted_id": "surrogate", "inputs": True},
    "surrogate_embedding": {
        "scope": "global",
        "fitted_id": "surrogate_embedding",
        "inputs": True,
        "params": {"inputs": "embedding", "kernel": 9},
    },
}
CARDS = {
    "surrogate": {
        "label": "Surrogate (no proxy)",
        "role": "rival",
        "about": "no proxy: small networks read the target's own hidden states as it prefills",
        "color": "#E7298A",
        "marker": (4, 1, 45),
        "cost": ["training"],
    },
    "surrogate_embedding": {
        "label": "Surrogate, tokens only",
        "role": "rival",
        "about": "no proxy: small networks read the embeddings of the tokens",
        "color": "#F2A0C8",
        "marker": (5, 0, 180),
        "cost": ["training"],
    },
}


class Surrogate:
    """Logits of the target's KVzip scores, from what enters its attention layers."""

    def __init__(
        self,
        context: MethodContext,
        fitted: Path,
        inputs: Inputs = "hidden",
        width: Index = 64,
        kernel: Odd = 1,
        **fitting: Any,
    ) -> None:
        """All but `fitted` says how it was fitted (see `fit`), and is in the card.

        `inputs`: of every layer for its own KV heads (`hidden`), or of the first layer alone, which
        are the tokens' embeddings, for all (`embedding`); `width`: of the one inner layer, 0 for a
        linear map; `kernel`: tokens that a token's scores are guessed from, itself in the middle.
        """
        self.net, card = _load(fitted, context.pair)
        self.key = ("surrogate", card["weights_sha256"])
        self.ledger = context.ledger

    def score(self, prefill: Prefill) -> Scores:
        """Scores from the context's prefill, or from another one if that was not read."""
        return self.ledger.once(
            prefill, self.key, lambda: scores_of_another_prefill(prefill, self.score_layer)
        )

    def score_layer(
        self, layer: int, inputs: Float[Tensor, "token width"]
    ) -> Float[Tensor, "head token"]:
        """Logits of the heads that this layer's inputs decide on, which may be none.

        Args:
            layer: index of the layer.
            inputs: hidden states of prefix + context.
        """
        if layer >= self.net.config.sources:
            return inputs.new_empty(0, len(inputs), dtype=torch.float32)
        return self.net.to(inputs.device).score_one(layer, inputs.float())


@dataclass(frozen=True)
class SurrogateShape:
    """Shape of a network: each source's inputs decide on an equal share of all heads.

    Attributes:
        sources: number of inputs.
        input_width: width of an input.
        layers: layers of the target.
        heads: KV heads of a layer.
        width: hidden channels for each source; 0 for a linear network.
        kernel: tokens that the convolution sees.
    """

    sources: int
    input_width: int
    layers: int
    heads: int
    width: int = 64
    kernel: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.kernel % 2 == 0:
            raise ConfigError(f"surrogate: kernel {self.kernel} is even; choose an odd number")


class SurrogateNetwork(nn.Module):
    """A separate network for every source: convolution along tokens, GELU, linear."""

    def __init__(self, config: SurrogateShape) -> None:
        super().__init__()
        self.config = config
        inner, heads = config.width, config.layers * config.heads // config.sources
        self.register_buffer("mean", torch.zeros(config.sources, config.input_width))
        self.register_buffer("std", torch.ones(config.sources, config.input_width))
        self.bias = nn.Parameter(torch.zeros(config.sources, heads))
        self.inward = nn.ModuleList(
            nn.Conv1d(config.input_width, inner or heads, config.kernel, padding="same")
            for _ in range(config.sources)
        )
        self.calibration = QuantileCalibration(config.layers * config.heads)
        self.outward = nn.ModuleList(
            nn.Conv1d(inner, heads, 1, bias=False) for _ in range(config.sources if inner else 0)
        )

    def forward(
        self, inputs: Float[Tensor, "source token width"]
    ) -> Float[Tensor, "layer kv_head token"]:
        """Logits of all heads."""
        logits = torch.cat([self.one(i, part) for i, part in enumerate(inputs)])
        return logits.unflatten(0, (self.config.layers, self.config.heads))

    def one(self, source: int, inputs: Float[Tensor, "token width"]) -> Float[Tensor, "head token"]:
        """Logits of one source's heads.

        Args:
            source: index of the source.
            inputs: what this source reads.
        """
        x = (inputs - self.get_buffer("mean")[source]) / self.get_buffer("std")[source]
        x = self.inward[source](x.T)
        if self.config.width:
            x = self.outward[source](F.gelu(x))
        return x + self.bias[source][:, None]

    @torch.no_grad()
    def score(
        self, inputs: Float[Tensor, "source token width"]
    ) -> Float[Tensor, "layer kv_head token"]:
        """Matched logits of all heads."""
        scores = torch.cat([self.score_one(i, part) for i, part in enumerate(inputs)])
        return scores.unflatten(0, (self.config.layers, self.config.heads))

    @torch.no_grad()
    def score_one(
        self, source: int, inputs: Float[Tensor, "token width"]
    ) -> Float[Tensor, "head token"]:
        """Calibrated logits of one source's heads.

        Args:
            source: index of the source.
            inputs: what this source reads.
        """
        logits = self.one(source, inputs)
        first = source * len(logits)
        return self.calibration(logits, slice(first, first + len(logits)))


def fit(
    files: Sequence[Path], out: Path, params: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Train on stored scores and inputs.

    Args:
        files: stored scores of the training contexts.
        out: the fitted folder.
        params: `width` and `kernel` of the network, `inputs`; others are `TrainingSettings`.
        identity: entries of the card that name the pair and the corpus.
    """
    shape = {name: params[name] for name in ("width", "kernel") if name in params}
    # The run's settings of mappers and of the proxy's signals do not concern it.
    others = {*shape, "inputs", "mapper", *SETTINGS}
    training: dict[str, Any] = {"lr": 1e-3} | {k: v for k, v in params.items() if k not in others}
    kind = params.get("inputs", "hidden")
    config = TrainingSettings(**training, mapper=shape, signal=kind)
    train_mapper(files, out, config, identity, build=initial_network, load=load_inputs)


def predictor(folder: Path, params: Mapping[str, Any]) -> Predictor:
    """The network's logits of those tokens of a context whose inputs are stored.

    Args:
        folder: the fitted folder.
        params: not used: the card holds them.

    Returns:
        A function from a file of stored scores to predicted logits and true scores.
    """
    net, card = _load(folder)

    def predict(path: Path) -> tuple[Scores, Scores]:
        inputs, target = load_inputs(path, card["training"]["signal"])
        return net.score(inputs), target

    return predict


def initial_network(
    files: Sequence[Path], settings: Mapping[str, Any], inputs: str
) -> SurrogateNetwork:
    """An untrained network with the normalisation and the mean logits of the training contexts.

    Args:
        files: stored scores of the training contexts.
        settings: `width` and `kernel` of the network.
        inputs: kind of the stored inputs that it reads.
    """
    x, target = load_inputs(files[0], inputs)
    net = SurrogateNetwork(SurrogateShape(len(x), x.shape[-1], *target.shape[:2], **settings))
    total = square = logit = torch.zeros(())
    tokens = 0
    for path in files:
        x, target = load_inputs(path, inputs)
        total, square = total + x.double().sum(1), square + x.double().square().sum(1)
        logit = logit + target.flatten(0, 1).double().logit(eps=1e-3).sum(1)
        tokens += x.shape[1]
    mean = total / tokens
    net.get_buffer("mean").copy_(mean)
    net.get_buffer("std").copy_((square / tokens - mean**2).clamp_min(0).sqrt().clamp_min(1e-3))
    net.bias.data.copy_((logit / tokens).view_as(net.bias))
    return net


def _load(
    folder: Path, expected: Mapping[str, str] | None = None
) -> tuple[SurrogateNetwork, dict[str, Any]]:
    weights, card = load_fitted(folder, expected)
    net = SurrogateNetwork(SurrogateShape(**card["mapper"]))
    fill(net, weights, folder)
    return net.eval(), card


METHOD = Surrogate
