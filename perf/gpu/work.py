"""Work that cannot be avoided: operations of matrix products, and bytes (see `rows.FORMULAS`)."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from proxykv.model.model import Model


def replay_flops(config: PreTrainedConfig, replay: int, chunk: int, tokens: int) -> float:
    """Attention of a replay in one layer, and the products of its scores.

    Args:
        config: the model's shape.
        replay: tokens of the replay.
        chunk: tokens of the chunk.
        tokens: of the context.
    """
    width = config.num_attention_heads * config.head_dim
    return 4 * width * replay * (tokens + replay / 2) + 2 * width * replay * chunk


def kvzip_flops(model: Model, replays: list[tuple[int, int]], tokens: int) -> float:
    """All replays of a context.

    Args:
        model: the model.
        replays: tokens of each chunk and of its replay.
        tokens: of the context.
    """
    config = model.net.config
    return sum(
        2 * layer_parameters(model) * replay
        + config.num_hidden_layers * replay_flops(config, replay, chunk, tokens)
        for chunk, replay in replays
    )


def prefill_flops(model: Model, tokens: int) -> float:
    """The prefill of a context.

    Args:
        model: the model.
        tokens: of the context.
    """
    config = model.net.config
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return 2 * layer_parameters(model) * tokens + 2 * width * tokens**2


def reading_flops(model: Model, read: int, tokens: int) -> float:
    """Questions and references on top of a context.

    Args:
        model: the model.
        read: tokens of all questions and references.
        tokens: of the context.
    """
    config = model.net.config
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return 2 * layer_parameters(model) * read + 4 * width * read * tokens


def layer_parameters(model: Model) -> int:
    """Parameters of the layers, without embeddings."""
    return sum(parameter.numel() for parameter in model.net.base_model.layers.parameters())  # type: ignore[union-attr]


def token_bytes(model: Model, pairs: float) -> float:
    """Bytes that a step reads at least: weights, and KV pairs.

    Args:
        model: the model.
        pairs: KV pairs that are read once, over all layers and heads.
    """
    config = model.net.config
    weights = sum(parameter.nbytes for parameter in model.net.parameters())
    embedding: Any = model.net.get_input_embeddings()
    if not config.tie_word_embeddings:
        weights -= embedding.weight.nbytes
    return weights + 2 * pairs * config.head_dim * embedding.weight.element_size()
