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
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import AttentionInterface, GenerationConfig, LlamaForCausalLM

from proxykv.benchmarks import tiny_language
from proxykv.pretrain.data import make_batch
from proxykv.pretrain.losses import ContextMass, losses
from proxykv.pretrain.network import ROLES, Role, make_model
from proxykv.pretrain.report import evaluate, write_card
from proxykv.runtime.files import obey_umask

MUON_LR, ADAM_LR = 0.01, 3e-3
CONTEXT_LM, PENALTY = 0.5, 0.2
LOG_EVERY = 25


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
    optimizers, schedules = _optimizers(model, sum(steps for _, _, steps in role.stages))
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


def _optimizers(
    model: LlamaForCausalLM, total: int
) -> tuple[Sequence[torch.optim.Optimizer], Sequence[LambdaLR]]:
    """Muon for matrices, AdamW for the rest, and their schedules over `total` steps."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = (
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.98), weight_decay=0.0),
    )
    schedules = [
        LambdaLR(o, lambda step: min(1.0, (step + 1) / 30, (total - step) / (0.4 * total)))
        for o in optimizers
    ]
    return optimizers, schedules


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
