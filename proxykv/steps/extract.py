"""Scores of target and proxy on the training contexts, computed once and stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from proxykv.benchmarks.examples import Example, read_jsonl
from proxykv.config import paths
from proxykv.config.keys.code import code_digest
from proxykv.config.keys.model_files import PROXY, SCORING
from proxykv.config.run import ROLES, Run
from proxykv.config.settings.signals import Signal
from proxykv.mapper import tensor_file
from proxykv.mapper.corpus import context_name
from proxykv.mapper.layer_inputs import inputs_file, sample_inputs
from proxykv.mapper.stored_scores import tensor_name
from proxykv.model.loading import Model, context_ids, load
from proxykv.model.prefill import prefill
from proxykv.model.prompt.vocabulary import require_shared_vocabulary, vocabulary_hash
from proxykv.runtime import files
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.scoring.signals import proxy_signals

LOADING = "proxykv.model.loading:load"
"""Code that every score depends on."""

log = logging.getLogger(__name__)


def extract(run: Run, family: str, shard: int) -> Path:
    """Store the scores of one shard of the training contexts.

    A context's file, named by its id and a digest of its text, holds `target` [L, H, n] and the
    proxy's scores [L_p, H_p, n] of every signal that a run was fitted on, in float32: in half
    precision, scores near 1 would be equal. All corpora of a pair share these files. Scores that
    the same weights and code made are not computed again: a killed job goes on at the next context,
    and another run adds the signals that it needs.

    Args:
        run: the run.
        family: one of its families.
        shard: index of the shard; it holds every `score_shards`-th context, starting there.

    Returns:
        The list of the shard's score files, with the pair that made them.
    """
    path = paths.score_lists(run, family)[shard]
    path.parent.mkdir(parents=True, exist_ok=True)
    of_shard = _contexts(run, family, shard)
    target, proxy = load(run, family, "target"), load(run, family, "proxy")
    require_shared_vocabulary(target.tokenizer, proxy.tokenizer)
    files_of = {role: run.model(family, role) for role in ROLES}
    keys = files_of["target"].key(SCORING), files_of["proxy"].key(PROXY)
    made_by = digest([*keys, code_digest(f"{__name__}:_store", LOADING)])
    for i, example in enumerate(of_shard):
        file = path.with_name(_file(example))
        kept = _kept(file, made_by)
        if missing := [s for s in run.stored_signals if tensor_name(s.name) not in kept]:
            _store(target, proxy, example, file, made_by, kept, missing)
        log.info("scores: %d/%d contexts", i + 1, len(of_shard))
    listed = {
        "files": [_file(example) for example in of_shard],
        "pair": {
            "family": family,
            "models": run.models(family),
            **files_of["target"].pair_entries("target"),
            **files_of["proxy"].pair_entries("proxy"),
            "vocab_hash": vocabulary_hash(target.tokenizer),
        },
    }
    files.write_json(path, listed)
    return path


def extract_inputs(run: Run, family: str, shard: int) -> Path:
    """Store inputs of the target's layers on the training contexts, where none are stored.

    Args:
        run: the run.
        family: one of its families.
        shard: index of the shard, as in `extract`.

    Returns:
        The list of the shard's files.
    """
    path = paths.input_lists(run, family)[shard]
    path.parent.mkdir(parents=True, exist_ok=True)
    of_shard = _contexts(run, family, shard)
    target = load(run, family, "target")
    key = run.model(family, "target").key(SCORING)
    made_by = digest([key, code_digest(f"{__name__}:_store_inputs", LOADING)])
    names = [inputs_file(Path(_file(example))).name for example in of_shard]
    for i, (example, name) in enumerate(zip(of_shard, names, strict=True)):
        if _made_by(path.with_name(name)) != made_by:
            _store_inputs(target, example, path.with_name(name), made_by)
        log.info("inputs: %d/%d contexts", i + 1, len(of_shard))
    files.write_json(path, {"files": names})
    return path


def _contexts(run: Run, family: str, shard: int) -> list[Example]:
    """Training contexts of a shard."""
    contexts = [e for d in run.datasets(family, "train") for e in read_jsonl(d.path)]
    return contexts[shard :: run.config["score_shards"]]


def stored(lists: Sequence[Path]) -> tuple[list[Path], dict[str, Any]]:
    """Read the lists of all shards.

    Args:
        lists: what `extract` returned for each shard.

    Returns:
        The score files, and the pair of models that made them.

    Raises:
        ConfigError: if different weights made the shards.
    """
    contents = [json.loads(path.read_text("utf-8")) for path in lists]
    if any(content["pair"] != contents[0]["pair"] for content in contents):
        raise ConfigError(f"{lists[0].parent}: scores of different weights; extract them again")
    paths = [
        path.with_name(name)
        for path, content in zip(lists, contents, strict=True)
        for name in content["files"]
    ]
    return paths, contents[0]["pair"]


def _file(example: Example) -> str:
    return f"{context_name(example)}.safetensors"


def _made_by(path: Path) -> str | None:
    try:
        with tensor_file.opened(path) as file:
            return (file.metadata() or {}).get("made_by")
    except (FileNotFoundError, SafetensorError):
        return None


def _kept(path: Path, made_by: str) -> set[str]:
    """Names of the tensors that a file holds, if the same weights and code made them."""
    if _made_by(path) != made_by:
        return set()
    with tensor_file.opened(path) as file:
        return set(file.keys())


def _store(
    target: Model,
    proxy: Model,
    example: Example,
    path: Path,
    made_by: str,
    kept: set[str],
    missing: Sequence[Signal],
) -> None:
    """Add signals to a context's file; without `kept` tensors, write a new file."""
    ids = context_ids(target, example.context)
    prefix_len = len(target.prefix)
    if kept:
        scores = load_file(path)
    else:
        prefilled = prefill(target, ids, prefix_len)
        scores = {"target": score_replays(prefilled, replays(target, prefilled.context))}
    signals = proxy_signals(target, proxy, ids.to(proxy.device), prefix_len, missing)
    scores |= {tensor_name(signal.name): found for signal, found in signals.items()}
    tensors = {name: t.to("cpu", torch.float32).contiguous() for name, t in scores.items()}
    _save(path, tensors, example, made_by)


def _store_inputs(target: Model, example: Example, path: Path, made_by: str) -> None:
    ids = context_ids(target, example.context)
    _save(path, sample_inputs(target, ids, len(target.prefix), path.name), example, made_by)


def _save(path: Path, tensors: dict[str, Tensor], example: Example, made_by: str) -> None:
    tensor_file.save(path, tensors, {"context": example.id, "made_by": made_by})
