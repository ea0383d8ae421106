"""Full-cache accuracy of a trained tiny model, and its model card."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from proxykv.benchmarks import tiny
from proxykv.pretrain.data import WHOLE
from proxykv.runtime import files

LENGTHS = (256, 512)
CONTEXTS = 24

_CARD = """---
license: apache-2.0
---
# ProxyKV tiny family: {role}

A Llama-architecture model of {parameters:,} parameters ({layers} layers, {heads} query and
{kv_heads} KV heads), trained from scratch on the tiny language of `proxykv.benchmarks.tiny`. It
lets the whole pipeline run and be tested without a download or a GPU; it knows 512
words and no English.

Made by `{command}`: {steps} steps, {minutes:.1f} minutes
of wall time with one CPU thread, torch {torch}.

Accuracy with the full cache, greedy, {contexts} fresh contexts per cell (`copy`: share of the
context's tokens predicted after KVzip's repeat request, teacher-forced):

| tokens | {columns} |
|---|{rules}
{rows}

Prompt: context, then `Question : code <key>` (or `phone`, `price`, `codes`, `set`), tokenized
apart; the model continues with the value and `</s>`. No BOS, no chat template.

How much is learned: training starts from a hand-set induction circuit (previous-token heads, then
heads that continue what followed the last time), so copying is partly built in; facts, chains and
questions are learned. The second value of `multivalue` is not: 0.5 is what these models reach.
"""


@torch.inference_mode()
def evaluate(model: PreTrainedModel, tokenizer: Tokenizer) -> dict[str, dict[str, float]]:
    """Measure accuracy with the full cache.

    Args:
        model: the trained model.
        tokenizer: its tokenizer.

    Returns:
        By length and task, the share of right answers, each question asked directly after its
        context; as `copy`, the share of tokens predicted after KVzip's request.
    """
    accuracy: dict[str, dict[str, float]] = {}
    for length in LENGTHS:
        cells = {task: _answers(model, tokenizer, task, length) for task in tiny.TASKS}
        accuracy[str(length)] = {**cells, "copy": _copy(model, tokenizer, length)}
    return accuracy


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _contexts(tokenizer: Tokenizer, task: str, length: int) -> list[Any]:
    return tiny.build(
        task, tokenizer=tokenizer, contexts=CONTEXTS, lengths=(length,), seed=2026, split="eval"
    )


def _answers(model: PreTrainedModel, tokenizer: Tokenizer, task: str, length: int) -> float:
    pairs = [
        (_encode(tokenizer, example.context) + _encode(tokenizer, question.text), question)
        for example in _contexts(tokenizer, task, length)
        for question in example.questions
    ]
    prompts = torch.tensor([ids for ids, _ in pairs])  # questions of a task are equally long
    longest = max(question.max_new_tokens for _, question in pairs)
    tokens = model.generate(prompts, max_new_tokens=longest)  # pyright: ignore[reportCallIssue]
    replies = [tokenizer.decode(row.tolist()) for row in tokens[:, prompts.shape[1] :]]
    scores = [tiny.score(task, t, q.references) for t, (_, q) in zip(replies, pairs, strict=True)]
    return sum(scores) / len(scores)


def _copy(model: PreTrainedModel, tokenizer: Tokenizer, length: int) -> float:
    hits = []
    request = torch.tensor(_encode(tokenizer, WHOLE))
    for task in tiny.TASKS:
        texts = [example.context for example in _contexts(tokenizer, task, length)[:6]]
        context = torch.tensor([_encode(tokenizer, text) for text in texts])
        ids = torch.cat((context, request.expand(len(texts), -1), context), 1)
        guesses = model(ids, use_cache=False, logits_to_keep=length + 1).logits[:, :-1].argmax(-1)
        hits.append((guesses == context).float().mean().item())
    return sum(hits) / len(hits)


def write_card(folder: Path, model: PreTrainedModel, facts: dict[str, Any]) -> None:
    """Write metrics.json and README.md.

    Args:
        folder: of the model.
        model: the trained model.
        facts: role, seed, command, steps, minutes, and accuracy (see `evaluate`).
    """
    config = model.config
    facts = {
        **facts,
        "parameters": model.num_parameters(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    files.write_json(folder / "metrics.json", facts)
    names = list(facts["accuracy"][str(LENGTHS[0])])
    rows = [
        f"| {length} | " + " | ".join(f"{cells[name]:.3f}" for name in names) + " |"
        for length, cells in facts["accuracy"].items()
    ]
    card = _CARD.format(
        **{key: facts[key] for key in ("role", "command", "steps", "minutes", "parameters")},
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        torch=torch.__version__,
        contexts=CONTEXTS,
        columns=" | ".join(names),
        rules="---|" * len(names),
        rows="\n".join(rows),
    )
    files.write_text(folder / "README.md", card)
