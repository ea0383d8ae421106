"""Scores of target and proxy on the training contexts, computed once and stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from proxykv.benchmarks.examples import Example, read_jsonl
from proxykv.config import paths
from proxykv.config.keys.code import code_digest
from proxykv.config.keys.model_files import PROXY, READING, SCORING
from proxykv.config.run import ROLES, Run
from proxykv.config.settings.signals import Signal
from proxykv.mapper import tensor_file
from proxykv.mapper.corpus import context_name
from proxykv.mapper.layer_inputs import inputs_file, sample_inputs
from proxykv.mapper.stored_scores import signal_file
from proxykv.model.loading import load
from proxykv.model.model import Model, context_ids
from proxykv.model.parallel import memory_for
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
    job continues at the next context. The proxy's
    scores are taken from another target's file if the same proxy made them.

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
    code = code_digest(f"{__name__}:_scores", f"{__name__}:_signal", LOADING)
    made_by, proxy_by = digest([*_keys(run, family), code]), _proxy_by(run, family)

    def scores(example: Example, file: Path) -> Tensors:
        of_proxy = _shared(file, proxy_by)
        if of_proxy is None:
            of_proxy = _signal(target, proxy, example, Signal())
        return {"target": _scores(target, example), "proxy": of_proxy}

    listed = _store(path, of_shard, lambda file: file, made_by, scores, {"proxy_by": proxy_by})
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
    proxy_by = _proxy_by(run, family)

    def scores(example: Example, file: Path) -> Tensors:
        found = _shared(file, proxy_by)
        return {"proxy": _signal(target, proxy, example, signal) if found is None else found}

    def file_of(scores: Path) -> Path:
        return signal_file(scores, signal.name)

    listed = _store(path, of_shard, file_of, made_by, scores, {"proxy_by": proxy_by})
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


def _proxy_by(run: Run, family: str) -> str:
    """Digest of what makes the proxy's scores: the proxy, what it reads, and code."""
    read = run.model(family, "target").key(READING)
    code = code_digest(f"{__name__}:_signal", LOADING)
    return digest([run.model(family, "proxy").key(PROXY), read, code])


def _store(
    listed: Path,
    examples: Sequence[Example],
    file_of: Callable[[Path], Path],
    made_by: str,
    compute: Callable[[Example, Path], Tensors],
    about: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Make the files of contexts that are missing, damaged, or made by other weights or code.

    Args:
        listed: the list of the files, which lie next to it.
        examples: the contexts.
        file_of: from a context's score file to the file to make.
        made_by: digest of what makes the files.
        compute: makes the content of a file.
        about: other metadata of the files.

    Returns:
        The list: names of all files, and what made them.
    """
    made = [file_of(listed.with_name(f"{context_name(e)}.safetensors")) for e in examples]
    before = [_metadata(file).get("made_by") for file in made]
    if stale := sum(found not in (None, made_by) for found in before):
        log.info("%d stored contexts are of other weights or code: computed again", stale)
    for i, (example, file, found) in enumerate(zip(examples, made, before, strict=True)):
        if found != made_by:
            with memory_for(f"context {example.id}", "`max_context`; stored contexts are kept"):
                tensors = compute(example, file)
            metadata = {"context": example.id, "made_by": made_by, **(about or {})}
            tensor_file.save(file, tensors, metadata)
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


def _metadata(path: Path) -> dict[str, str]:
    """What is said of a file; empty if it is missing or damaged."""
    try:
        with tensor_file.opened(path) as file:
            return file.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return {}


def _scores(target: Model, example: Example) -> Tensor:
    """KVzip scores of the target."""
    ids = context_ids(target, example.context)
    prefilled = prefill(target, ids, len(target.prefix))
    return score_replays(prefilled, replays(target, prefilled.context)).float()


def _signal(target: Model, proxy: Model, example: Example, signal: Signal) -> Tensor:
    """Scores of the proxy, which replays what the target's tokenizer writes."""
    ids = context_ids(target, example.context).to(proxy.device)
    return proxy_signals(target, proxy, ids, len(target.prefix), [signal])[signal].float()


def _shared(file: Path, proxy_by: str) -> Tensor | None:
    """The proxy's scores that are stored already, perhaps for another target.

    They do not depend on the target's weights.

    Args:
        file: where they are to be stored. The files of other pairs have the same name.
        proxy_by: digest of what makes them.
    """
    for other in sorted(file.parent.parent.glob(f"*/{file.name}")):
        with suppress(PermissionError):  # another user's
            if _metadata(other).get("proxy_by") == proxy_by:
                with tensor_file.opened(other) as stored:
                    return stored.get_tensor("proxy")
    return None


def _inputs(target: Model, example: Example, file: Path) -> Tensors:
    ids = context_ids(target, example.context)
    return sample_inputs(target, ids, len(target.prefix), file.name)
