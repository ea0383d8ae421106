"""KVzip scores of target and proxy on the training contexts, computed once and stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from baselines.kvzip import replays, score_replays
from proxykv import catalog
from proxykv.examples import Example, read_jsonl
from proxykv.models import (
    Model,
    context_ids,
    load,
    require_shared_vocabulary,
    vocabulary_hash,
)
from proxykv.pipeline import proxy_scores
from proxykv.prefill import prefill
from proxykv.spec import Run

log = logging.getLogger(__name__)


def extract(run: Run, family: str) -> Path:
    """Store the scores of every training context; returns the index of the files.

    A file per context, named by its id and a digest of its text, holds `target` [L, H, n] and
    `proxy` [L_p, H_p, n] in float32: half precision would tie the scores near 1. Files that the
    same weights and code made are not computed again, so a killed job goes on at the next context.
    The index lists them with what they were made from.
    """
    folder = run.scores_dir(family)
    folder.mkdir(parents=True, exist_ok=True)
    examples = [e for d in run.datasets(family, "train") for e in read_jsonl(d.path)]
    target, proxy = load(run, family, "target"), load(run, family, "proxy")
    require_shared_vocabulary(target.tokenizer, proxy.tokenizer)
    made_by = catalog.digest([target.digest, proxy.digest, catalog.code_digest("proxykv.pipeline")])
    for i, example in enumerate(examples):
        path = folder / _file(example)
        if not path.exists() or _made_by(path) != made_by:
            _store(target, proxy, example, path, made_by)
        log.info("scores: %d/%d contexts", i + 1, len(examples))
    index = {
        "files": [_file(example) for example in examples],
        "identity": {
            "family": family,
            "models": run.models(family),
            "target_hash": target.digest,
            "proxy_hash": proxy.digest,
            "vocab_hash": vocabulary_hash(target.tokenizer),
            "corpus": catalog.digest([example.context for example in examples]),
        },
    }
    path = folder / "index.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    partial.replace(path)
    return path


def stored(index: Path) -> tuple[list[Path], Mapping[str, Any]]:
    """Score files of an index, and what they were made from."""
    content = json.loads(index.read_text("utf-8"))
    return [index.parent / name for name in content["files"]], content["identity"]


def _file(example: Example) -> str:
    return f"{example.id}-{catalog.digest(example.context)}.safetensors"


def _made_by(path: Path) -> str | None:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("made_by")


def _store(target: Model, proxy: Model, example: Example, path: Path, made_by: str) -> None:
    ids = context_ids(target, example.context)
    filled = prefill(target, ids, len(target.prefix))
    scores = {
        "target": score_replays(filled, replays(target, filled.context)),
        "proxy": proxy_scores(target, proxy, ids, len(target.prefix)),
    }
    partial = path.with_suffix(".partial")
    tensors = {name: t.to("cpu", torch.float32).contiguous() for name, t in scores.items()}
    save_file(tensors, partial, metadata={"context": example.id, "made_by": made_by})
    partial.replace(path)
