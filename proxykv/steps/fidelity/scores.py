"""Fidelity of scores where nothing is answered: how close methods come to the oracle's scores.

For contexts that are too long to answer every question of every method at every retention. A job
scores its contexts with all methods of the run; `score_fidelity` makes one table of all jobs.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from proxykv.benchmarks.examples import Example
from proxykv.config.catalog import Method
from proxykv.config.jobs import Job
from proxykv.config.run import Run
from proxykv.mapper import tensor_file
from proxykv.mapper.fidelity import fidelity as compared
from proxykv.mapper.fidelity import rank_correlation
from proxykv.model.model import context_ids
from proxykv.report.stats import mean_ci
from proxykv.report.tabulate import write_table
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.journal import Journal
from proxykv.runtime.parquet import read_parquet, write_parquet
from proxykv.steps.generate import Generator

KEYS = ["family", "benchmark", "task", "method", "length", "metric", "retention"]
ALL = "all"

log = logging.getLogger(__name__)


def fidelity(run: Run, job: Job) -> Path:
    """Score a job's contexts with every method and compare the scores with the oracle's.

    The oracle's scores of a context are stored; then a journal receives each method as it is done:
    those that need no proxy, then those that share a prefill of the proxy. A rerun scores only what
    is missing.

    Args:
        run: the run.
        job: the job.

    Returns:
        Path of the table: one line for each context, method and metric.

    Raises:
        ConfigError: if the run has no oracle.
    """
    oracle, methods = compared_methods(run)
    path = fidelity_file(job)
    journal = Journal(path.with_suffix(".journal.jsonl"))
    generator = Generator(run, job)
    lengths = job.dataset.lengths or (None,)
    lines = []
    with journal.lock.held():
        done = {_key(record): record for record in journal.read()}
        for example in job.part(generator.examples):
            # Every benchmark takes the lengths in turn.
            length = lengths[generator.examples.index(example) % len(lengths)]
            text = digest([example.context, example.chat])
            keys = [(example.id, text, generator.digests[method.id]) for method in methods]
            missing = [m for m, key in zip(methods, keys, strict=True) if key not in done]
            if missing:
                known = path.with_suffix("") / f"{text}-{generator.digests[oracle.id]}.safetensors"
                for found in _scored(generator, example, oracle, missing, known):
                    record = {"context_id": example.id, "text": text, **found}
                    journal.append([record])
                    done[_key(record)] = record
            lines += [line for key in keys for line in _lines(job, length, done[key])]
            log.info("%s: scored", example.id)
    write_parquet(path, pd.DataFrame(lines))
    return path


def score_fidelity(run: Run) -> None:
    """Write `score_fidelity.csv`: means over contexts, by task and length, with intervals.

    Args:
        run: the run; jobs that are not done are left out.

    Raises:
        ConfigError: if no job is done.
    """
    done = [path for job in run.jobs() if (path := fidelity_file(job)).exists()]
    if not done:
        raise ConfigError(f"{run.dir / 'fidelity'}: nothing is scored; run `proxykv fidelity`")
    values = pd.concat([read_parquet(path) for path in done])
    values["of_task"] = values.task
    both = pd.concat([values.assign(task=ALL), values])
    records = []
    for keys, part in both.groupby(KEYS, sort=False, dropna=False):
        tasks = [task["value"].to_numpy() for _, task in part.groupby("of_task")]
        records.append([*keys, *mean_ci(tasks), len(part), part.tokens.mean()])
    columns = [*KEYS, "mean", "ci_low", "ci_high", "n_contexts", "tokens"]
    table = pd.DataFrame(records, columns=columns)
    write_table(run.dir / "tables" / "score_fidelity.csv", table, run.cards)


def fidelity_file(job: Job) -> Path:
    """Where a job's fidelity of scores is.

    Args:
        job: the job.
    """
    return job.file("fidelity")


def compared_methods(run: Run) -> tuple[Method, list[Method]]:
    """The oracle of a run, and the methods whose scores can be compared with its scores.

    Methods that select by themselves, or read another context, are left out, and so are those
    that differ from an earlier one in their scope alone.

    Args:
        run: the run.

    Raises:
        ConfigError: if the run has no oracle, or if methods see a question.
    """
    oracle = run.cards.only("oracle")
    if oracle not in run.methods:
        raise ConfigError("config.methods: no oracle to compare scores with; add 'kvzip'")
    if run.protocol != "query_agnostic":
        raise ConfigError("config.protocol: scores are compared without a question; query_agnostic")
    scoring: dict[str, Method] = {}
    for method in [run.methods[oracle], *run.methods.values()]:
        if method.scope not in ("none", "custom") and not method.donor:
            scoring.setdefault(digest([method.base, method.params, method.fitted_id]), method)
    first, *others = scoring.values()
    return first, others


def _scored(
    generator: Generator, example: Example, oracle: Method, methods: list[Method], known: Path
) -> Iterator[dict[str, Any]]:
    """Metrics and seconds of methods on a context; `known` stores the oracle's scores of it."""
    model = generator.target if example.chat else generator.target.without_template()
    engine = generator.engine
    without_proxy, *with_proxy = engine.passes(method.id for method in methods)
    work = engine.read(model, context_ids(model, example.context), [oracle.id, *without_proxy])
    if not known.exists():
        tensor_file.save(known, {"scores": work.scores(oracle.id)[0]})
    with tensor_file.opened(known) as stored:
        true = stored.get_tensor("scores")
    for one_pass in (without_proxy, *with_proxy):
        if one_pass is not without_proxy:
            engine.score_with_proxy(work.prefill, one_pass)
        for method in one_pass:
            scores, seconds = work.scores(method)
            log.info("%s: %s in %.0f s", example.id, method, seconds)
            yield {
                "method": method,
                "method_digest": generator.digests[method],
                "tokens": work.context_tokens,
                "metrics": {
                    **compared(scores, true),
                    "rank_correlation": rank_correlation(scores, true),
                    "seconds": work.prefill.seconds + seconds,
                },
            }


def _key(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["context_id"], record["text"], record["method_digest"]


def _lines(job: Job, length: int | None, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A record as lines of the table."""
    for name, value in record["metrics"].items():
        metric, _, retention = name.partition("@")
        yield {
            "family": job.family,
            "benchmark": job.benchmark,
            "task": job.task,
            "context_id": record["context_id"],
            "length": length,
            "tokens": record["tokens"],
            "method": record["method"],
            "metric": metric,
            "retention": float(retention) if retention else None,
            "value": value,
        }
