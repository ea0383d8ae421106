"""Models of the tiny family at the start of their training.

Layers 0 and 1 start with a rough induction circuit, which saves most of the training time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from proxykv.benchmarks import tiny_language


@dataclass(frozen=True)
class Role:
    """Shape and schedule of one model of the family.

    Attributes:
        width: hidden size.
        layers: number of layers.
        heads: query heads of a layer.
        kv_heads: KV heads of a layer.
        mlp: inner size of the feed-forward layer.
        stages: of the training: tokens of a context, contexts in a batch, steps.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    stages: tuple[tuple[int, int, int], ...]


STAGES = ((48, 16, 120), (128, 8, 180), (256, 4, 220), (512, 2, 220))
ROLES = {
    "target": Role(width=128, layers=4, heads=8, kv_heads=4, mlp=256, stages=STAGES),
    "proxy": Role(width=96, layers=2, heads=4, kv_heads=2, mlp=192, stages=STAGES),
}
HEAD_DIM = 32
CODE = 16  # channels of a token's code in the initial induction circuit
FAST = 4  # RoPE frequencies that tell neighbouring tokens apart
LOOK_GAIN, MATCH_GAIN, COPY_GAIN = 2.5, 2.0, 1.0
THETA = 5e5


def make_model(role: Role) -> LlamaForCausalLM:
    """Make a random model that starts with a rough induction circuit in layers 0 and 1."""
    ids = {word: i for i, word in enumerate(tiny_language.VOCABULARY)}
    config = LlamaConfig(
        vocab_size=len(tiny_language.VOCABULARY),
        hidden_size=role.width,
        intermediate_size=role.mlp,
        num_hidden_layers=role.layers,
        num_attention_heads=role.heads,
        num_key_value_heads=role.kv_heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ids[tiny_language.EOS],
        pad_token_id=ids[tiny_language.PAD],
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()  # blocks start silent, but for the circuit below
            elif weight.ndim == 2 and "embed" not in name:
                weight.normal_(std=weight.shape[1] ** -0.5)
        table = model.model.embed_tokens.weight
        table.normal_(std=0.1)
        table[:, 0] = 0.3  # a channel every word shares: layer 0 draws its constants from it
        table[:, -CODE:] = 0.0  # where layer 0 writes the code of the previous token
        first, second = (cast(LlamaAttention, model.model.layers[i].self_attn) for i in (0, 1))
        _start_induction(first, second)
    return model


def _start_induction(first: LlamaAttention, second: LlamaAttention) -> None:
    """Write an induction circuit into layers 0 and 1.

    Layer 0 looks back: with q = R(-d) u and k = u for a constant u the RoPE score is largest at
    distance d; only the fastest frequencies tell neighbours apart, so u lives on those. Head 0
    (d = 1) copies a random code of the previous token to reserved channels; head 1 has d = 2 and
    starts silent. In layer 1 the first query head of every KV head looks where the previous token's
    code equals the code of the current token, on the slowest frequencies, which barely turn with
    distance. Each copies another part of the embedding found there: with a single copying head,
    pruning would amount to keeping that head.
    """
    width, half = first.q_proj.in_features, HEAD_DIM // 2
    angle = THETA ** (-torch.arange(FAST) / half)
    first.k_proj.weight[:HEAD_DIM] = 0.0
    first.q_proj.weight[: 2 * HEAD_DIM] = 0.0
    first.k_proj.weight[:FAST, 0] += LOOK_GAIN
    for head in range(2):
        rows = first.q_proj.weight[head * HEAD_DIM : (head + 1) * HEAD_DIM]
        # rotate_half convention: channel f pairs with channel f + half.
        rows[:FAST, 0] += LOOK_GAIN * torch.cos((head + 1) * angle)
        rows[half : half + FAST, 0] -= LOOK_GAIN * torch.sin((head + 1) * angle)
    code = nn.init.orthogonal_(torch.empty(CODE, width))
    first.v_proj.weight[:CODE] = code
    first.o_proj.weight[-CODE:, :CODE] = 0.1 * math.sqrt(width / CODE) * torch.eye(CODE)
    slow = torch.cat(
        (torch.arange(half - CODE // 2, half), torch.arange(HEAD_DIM - CODE // 2, HEAD_DIM))
    )
    copies = nn.init.orthogonal_(torch.empty(second.k_proj.out_features, width))
    for kv in range(second.k_proj.out_features // HEAD_DIM):
        key = kv * HEAD_DIM
        query = key * second.num_key_value_groups
        second.q_proj.weight[query : query + HEAD_DIM] = 0.0
        second.k_proj.weight[key : key + HEAD_DIM] = 0.0
        second.q_proj.weight[query + slow] = MATCH_GAIN * math.sqrt(width / CODE) * code
        second.k_proj.weight[key + slow, -CODE:] = MATCH_GAIN * torch.eye(CODE)
        copy = copies[key : key + HEAD_DIM]
        second.v_proj.weight[key : key + HEAD_DIM] = copy
        second.o_proj.weight[:, query : query + HEAD_DIM] = COPY_GAIN * copy.T
