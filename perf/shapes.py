"""Published shapes of the paper's families, for measurements that need no trained weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from proxykv.config.catalog import ROOT
from proxykv.mapper.stages import MapperConfig
from proxykv.model.caches.context import ATTENTION
from proxykv.model.model import Model


@dataclass(frozen=True)
class Family:
    """Shapes of a pair.

    Attributes:
        target: config of the target.
        proxy: config of the proxy.
    """

    target: PreTrainedConfig
    proxy: PreTrainedConfig

    @property
    def mapper(self) -> MapperConfig:
        """Config of a mapper of the pair, with the default settings."""
        shapes = [(c.num_hidden_layers, c.num_key_value_heads) for c in (self.proxy, self.target)]
        return MapperConfig(*shapes[0], *shapes[1])


def shape(
    kind: Callable[..., PreTrainedConfig], vocabulary: int, *sizes: int, tied: bool = False
) -> PreTrainedConfig:
    """Make the config of a model.

    Args:
        kind: class of the config.
        vocabulary: size of the vocabulary.
        sizes: hidden size, intermediate size, layers, query heads, KV heads, head size.
        tied: whether input and output embeddings are the same.
    """
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    named = dict(zip((*names, "num_key_value_heads", "head_dim"), sizes, strict=True))
    about = {"vocab_size": vocabulary, "tie_word_embeddings": tied}
    return kind(**named, **about, max_position_embeddings=1 << 18)


FAMILIES = {
    "llama-3.1": Family(
        shape(LlamaConfig, 128256, 4096, 14336, 32, 32, 8, 128),
        shape(LlamaConfig, 128256, 2048, 8192, 16, 32, 8, 64, tied=True),
    ),
    "qwen-2.5": Family(
        shape(Qwen2Config, 152064, 3584, 18944, 28, 28, 4, 128),
        shape(Qwen2Config, 151936, 1536, 8960, 28, 12, 2, 128, tied=True),
    ),
    "qwen-3": Family(
        shape(Qwen3Config, 151936, 5120, 25600, 64, 64, 8, 128),
        shape(Qwen3Config, 151936, 2560, 9728, 36, 32, 8, 128, tied=True),
    ),
}


def random_model(config: PreTrainedConfig, dtype: str, device: torch.device) -> Model:
    """Make a model with random weights and the tokenizer of the tiny family.

    Args:
        config: its shape.
        dtype: of the weights, such as `bfloat16`.
        device: where they are made.
    """
    with device:
        net = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=ATTENTION
        )
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny" / "proxy")
    net = net.eval().requires_grad_(False)
    return Model(net, tokenizer, prefix=(), suffix=(), digest="")
