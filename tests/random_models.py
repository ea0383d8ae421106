"""Small random models of every supported architecture, and what to feed them."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
VOCABULARY = 97


def random_net(
    architecture: str, attention: str, *, seed: int = 0, **sizes: Any
) -> PreTrainedModel:
    """A model in evaluation mode; the same arguments give the same weights."""
    config, model = CLASSES[architecture]
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.25,  # large enough for peaked attention: mistakes show
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = model(config(**{**settings, **sizes}, attn_implementation=attention))
    # Qwen2 starts its attention biases at zero, where a forgotten bias would not show.
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            parameter.data = torch.linspace(-0.5, 0.5, parameter.numel())
    return net.eval().requires_grad_(False)


def random_ids(count: int, seed: int) -> Tensor:
    """Token ids, none of them the padding's."""
    return torch.randint(1, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))


def prefix_text(length: int) -> str:
    return "<" * length


def byte_tokenizer(prefix_len: int) -> PreTrainedTokenizerFast:
    """A token per byte, so that every space shows; a chat template where there is a prefix."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    if prefix_len:
        turns = "{% for turn in messages %}{{ turn['content'] }}</{{ turn['role'] }}>\n{% endfor %}"
        fast.chat_template = prefix_text(prefix_len) + turns
    return fast
