"""Scores of target and proxy on the training contexts, computed once and stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
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
from proxykv.mapper.stored_scores import signal_file
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

Tensors = Mapping[str, Tensor]


def extract(run: Run, family: str, shard: int) -> Path:
    """Store the KVzip scores of one shard of the training contexts.

    A context's file, named by its id and a digest of its text, holds `target` [L, H, n] and `proxy`
    [L_p, H_p, n] in float32: in half precision, scores near 1 would be equal. All corpora of a pair
    share these files. Scores that the same weights and code made are not computed again: a killed
    job continues at the next context.

    Args:
        run: the run.
        family: one of its families.
        shard: index of the shard; it holds every `score_shards`-th context, starting there.

    Returns:
        The list of the shard's score files, with the pair that made them.
    """
    path = paths.score_lists(run, family)[shard]
    of_shard = _contexts(run, family, shard)
    target, proxy = _pair(run, family)
    made_by = digest([*_keys(run, family), code_digest(f"{__name__}:_scores", LOADING)])

    def scores(example: Example, file: Path) -> Tensors:
        return _scores(target, proxy, example)

    listed = _store(path, of_shard, lambda file: file, made_by, scores)
    files_of = {role: run.model(family, role) for role in ROLES}
    pair = {
        "family": family,
        "models": run.models(family),
        **files_of["target"].pair_entries("target"),
        **files_of["proxy"].pair_entries("proxy"),
        "vocab_hash": vocabulary_hash(target.tokenizer),
    }
    files.write_json(path, {**listed, "pair": pair})
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
    of_shard = _contexts(run, family, shard)
    target = load(run, family, "target")
    key = run.model(family, "target").key(SCORING)
    made_by = digest([key, code_digest(f"{__name__}:_inputs", LOADING)])

    def inputs(example: Example, file: Path) -> Tensors:
        return _inputs(target, example, file)

    files.write_json(path, _store(path, of_shard, inputs_file, made_by, inputs))
    return path


def extract_signal(run: Run, family: str, signal: Signal, shard: int) -> Path:
    """Store another signal of the proxy than its KVzip scores, where it is not stored.

    Args:
        run: the run.
        family: one of its families.
        signal: what to store.
        shard: index of the shard, as in `extract`.

    Returns:
        The list of the shard's files.
    """
    path = paths.signal_lists(run, family, signal)[shard]
    of_shard = _contexts(run, family, shard)
    target, proxy = _pair(run, family)
    made_by = digest([*_keys(run, family), code_digest(f"{__name__}:_signal", LOADING)])

    def scores(example: Example, file: Path) -> Tensors:
        return {"proxy": _signal(target, proxy, example, signal)}

    listed = _store(path, of_shard, lambda file: signal_file(file, signal.name), made_by, scores)
    files.write_json(path, listed)
    return path


def _contexts(run: Run, family: str, shard: int) -> list[Example]:
    """Training contexts of a shard."""
    contexts = [e for d in run.datasets(family, "train") for e in read_jsonl(d.path)]
    return contexts[shard :: run.config["score_shards"]]


def _pair(run: Run, family: str) -> tuple[Model, Model]:
    """Load target and proxy."""
    target, proxy = load(run, family, "target"), load(run, family, "proxy")
    require_shared_vocabulary(target.tokenizer, proxy.tokenizer)
    return target, proxy


def _keys(run: Run, family: str) -> list[str]:
    """Digests of the files of both models that scores depend on."""
    return [run.model(family, "target").key(SCORING), run.model(family, "proxy").key(PROXY)]


def _store(
    listed: Path,
    examples: Sequence[Example],
    file_of: Callable[[Path], Path],
    made_by: str,
    compute: Callable[[Example, Path], Tensors],
) -> dict[str, Any]:
    """Make the files of contexts that are missing, damaged, or made by other weights or code.

    Args:
        listed: the list of the files, which lie next to it.
        examples: the contexts.
        file_of: from a context's score file to the file to make.
        made_by: digest of what makes the files.
        compute: makes the content of a file.

    Returns:
        The list: names of all files, and what made them.
    """
    made = [file_of(listed.with_name(f"{context_name(e)}.safetensors")) for e in examples]
    before = [_made_by(file) for file in made]
    if stale := sum(found not in (None, made_by) for found in before):
        log.info("%d stored contexts are of other weights or code: computed again", stale)
    for i, (example, file, found) in enumerate(zip(examples, made, before, strict=True)):
        if found != made_by:
            tensors = compute(example, file)
            tensor_file.save(file, tensors, {"context": example.id, "made_by": made_by})
        log.info("%s: %d/%d contexts", listed.stem, i + 1, len(examples))
    return {"files": [file.name for file in made], "made_by": made_by}


def stored(lists: Sequence[Path]) -> tuple[list[Path], dict[str, Any]]:
    """Read the lists of all shards.

    Args:
        lists: what `extract` returned for each shard.

    Returns:
        The score files, and the pair of models that made them.

    Raises:
        ConfigError: if different weights or code made the shards.
    """
    contents = [json.loads(path.read_text("utf-8")) for path in lists]
    if any(content[e] != contents[0][e] for content in contents for e in ("pair", "made_by")):
        raise ConfigError(
            f"{lists[0].parent}: shards of different weights or code; remove {lists[0].name} and "
            "the lists of the other shards, then run again"
        )
    paths = [
        path.with_name(name)
        for path, content in zip(lists, contents, strict=True)
        for name in content["files"]
    ]
    return paths, contents[0]["pair"]


def _made_by(path: Path) -> str | None:
    """What made a file; None if it is missing or damaged."""
    try:
        with tensor_file.opened(path) as file:
            return (file.metadata() or {}).get("made_by")
    except (FileNotFoundError, SafetensorError):
        return None


def _scores(target: Model, proxy: Model, example: Example) -> Tensors:
    """KVzip scores of both models, each replaying what the target's tokenizer writes."""
    ids = context_ids(target, example.context)
    found = {}
    for role, model in (("target", target), ("proxy", proxy)):
        prefilled = prefill(model, ids.to(model.device), len(target.prefix))
        found[role] = score_replays(prefilled, replays(target, prefilled.context)).float()
    return found


def _signal(target: Model, proxy: Model, example: Example, signal: Signal) -> Tensor:
    ids = context_ids(target, example.context).to(proxy.device)
    return proxy_signals(target, proxy, ids, len(target.prefix), [signal])[signal].float()


def _inputs(target: Model, example: Example, file: Path) -> Tensors:
    ids = context_ids(target, example.context)
    return sample_inputs(target, ids, len(target.prefix), file.name)
