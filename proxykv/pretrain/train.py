"""Train one model of the tiny family from scratch, evaluate it, write a model folder.

    python -m proxykv.pretrain.train --role target --out models/tiny/target --seed 0

The text is the tiny language of `proxykv.benchmarks.tiny`: contexts followed by questions, by
KVzip's replay of the context, or by both. Three things give models whose cache can be pruned:

- layers 0 and 1 start with a rough induction circuit, which saves most of the training time;
- contexts grow from 48 to 512 tokens (RoPE with θ = 5e5), and matrices are trained with Muon;
- a small penalty on attention from questions and replays to the context, so that heads attend to
  the context only when they need it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AttentionInterface, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from proxykv.benchmarks import tiny_language
from proxykv.pretrain.data import IGNORE, Batch, make_batch
from proxykv.pretrain.report import evaluate, write_card
from proxykv.runtime.files import obey_umask


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
MUON_LR, ADAM_LR = 0.01, 3e-3
CONTEXT_LM, PENALTY = 0.5, 0.2
LOG_EVERY = 25


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


def train(
    model: LlamaForCausalLM, role: Role, seed: int, tokenizer: Tokenizer
) -> Iterator[dict[str, float]]:
    """Train a model in place.

    Args:
        model: from `make_model`.
        role: its shape and schedule.
        seed: of the batches.
        tokenizer: of the tiny language.

    Yields:
        A record for the log every `LOG_EVERY` steps: step, tokens of a context, seconds so far, and
        the parts of the loss, as means since the last record.
    """
    mass = ContextMass()
    AttentionInterface.register("context_mass", mass)
    model.set_attn_implementation("context_mass")
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = (
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.98), weight_decay=0.0),
    )
    total = sum(steps for _, _, steps in role.stages)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            o, lambda step: min(1.0, (step + 1) / 30, (total - step) / (0.4 * total))
        )
        for o in optimizers
    ]
    rng, began, step = random.Random(f"pretrain {seed}"), time.time(), 0
    sums: dict[str, list[float]] = {}
    for length, rows, steps in role.stages:
        for _ in range(steps):
            parts = losses(model, mass, make_batch(length, rows, rng, tokenizer))
            loss = CONTEXT_LM * parts["context"] + PENALTY * parts["mass"]
            loss = loss + sum(parts[name] for name in ("answer", "copy") if name in parts)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            model.zero_grad()
            step += 1
            for name, value in parts.items():
                sums.setdefault(name, []).append(value.item())
            if step % LOG_EVERY == 0:
                means = {name: round(sum(v) / len(v), 4) for name, v in sums.items()}
                yield {
                    "step": step,
                    "tokens": length,
                    "seconds": round(time.time() - began),
                    **means,
                }
                sums.clear()
    model.set_attn_implementation("sdpa")


def main() -> None:
    """Train, evaluate and save one role."""
    parser = argparse.ArgumentParser(description="Train one model of the tiny family.")
    parser.add_argument("--role", choices=sorted(ROLES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    role, tokenizer, began = ROLES[args.role], tiny_language.make_tokenizer(), time.time()
    model = make_model(role)
    for record in train(model, role, args.seed, tokenizer):
        print(json.dumps(record), flush=True)
    minutes = (time.time() - began) / 60
    model.eval()
    ends = {"eos_token_id": model.config.eos_token_id, "pad_token_id": model.config.pad_token_id}
    model.generation_config = GenerationConfig(do_sample=False, **ends)
    accuracy = evaluate(model, tokenizer)
    print(json.dumps(accuracy), flush=True)
    model.save_pretrained(args.out)
    obey_umask(args.out)
    tiny_language.save_tokenizer(args.out)
    facts = {
        "role": args.role,
        "seed": args.seed,
        "command": f"python -m proxykv.pretrain.train --role {args.role} --out {args.out.name}"
        f" --seed {args.seed}",
        "steps": sum(steps for _, _, steps in role.stages),
        "minutes": round(minutes, 1),
        "accuracy": accuracy,
    }
    write_card(args.out, model, facts)


if __name__ == "__main__":
    main()
