"""The parts of the loss, among them the attention that tokens after a context put on it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from proxykv.pretrain.data import IGNORE, Batch
from proxykv.pretrain.network import HEAD_DIM


class ContextMass:
    """Attention function that also measures the attention mass that tokens put on the context.

    The mass is an extra channel of the values that is 1 at the context's keys and 0 elsewhere, so
    that fused kernels still apply.

    Attributes:
        context: tokens of the context, at the start of every row.
        masses: of each layer since `reset`, [batch, head, token].
    """

    def __init__(self) -> None:
        """Measure nothing before the first `reset`."""
        self.reset(0)

    def reset(self, context: int) -> None:
        """Start a new batch, whose first `context` tokens are the context."""
        self.context: int = context
        self.masses: list[Tensor] = []

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, None]:
        """Compute causal attention, as the attention interface of transformers requires."""
        mark = torch.zeros(*value.shape[:3], 8)  # 8 channels keep the width a multiple of 8
        mark[:, :, : self.context, 0] = 1.0
        out = F.scaled_dot_product_attention(
            F.pad(query, (0, 8)),
            F.pad(key, (0, 8)),
            torch.cat((value, mark), -1),
            is_causal=True,
            scale=1 / math.sqrt(HEAD_DIM),
            enable_gqa=True,
        )
        self.masses.append(out[..., HEAD_DIM])
        return out[..., :HEAD_DIM].transpose(1, 2).contiguous(), None


def losses(model: LlamaForCausalLM, mass: ContextMass, batch: Batch) -> dict[str, Tensor]:
    """Compute the loss's parts.

    Args:
        model: the model in training.
        mass: measures the attention mass on the context.
        batch: token ids and labels.

    Returns:
        Mean cross-entropy in nats of `answer`, `copy` and `context` (those that the batch has),
        accuracies of the first two, and `mass`: mean attention mass on the context.
    """
    mass.reset(batch.context)
    logits = model(batch.ids, use_cache=False).logits[:, :-1]
    parts = {
        name: F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
        for name, labels in batch.labels.items()
        if (labels != IGNORE).any()
    }
    with torch.no_grad():
        hits = logits.argmax(-1) == batch.ids[:, 1:]
        for name in [n for n in parts if n != "context"]:
            parts[f"{name}_accuracy"] = hits[batch.labels[name][:, 1:] != IGNORE].float().mean()
    rows = batch.after_context[None, :, None].float()  # [1, B, 1, T] against [layer, B, head, T]
    masses = torch.stack(mass.masses)
    parts["mass"] = (masses * rows).sum() / (rows.sum() * masses.shape[0] * masses.shape[2])
    return parts
