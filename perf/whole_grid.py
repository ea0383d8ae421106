"""Tables, figures and report of the paper's whole grid, from made-up rows: seconds and memory.

Rows of every family, task, method and retention of `config/paper.yaml`, and measurements of its
scans, are drawn at random: they say nothing about any method. Every figure and page that is made
of them carries the mark SYNTHETIC. Two processes share the work as in the workflow, where figures
are drawn while tables and report are made. Limits: 3 minutes and 4 GB on two cores.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from proxykv.config import catalog
from proxykv.config.benchmarks import tasks as known_tasks
from proxykv.config.cards import MethodCards
from proxykv.config.efficiency import Case, MeasuringJob, measuring_jobs
from proxykv.config.run import Run
from proxykv.report import build_report, plots
from proxykv.report.ablations import write_ablations
from proxykv.report.efficiency import measurement_files
from proxykv.report.paper import write_paper
from proxykv.report.tables.columns import SYNTHETIC
from proxykv.report.tabulate import write_efficiency, write_provenance, write_tables
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.parquet import write_parquet

AT_ONCE = (("tables", "report"), ("figures",))
"""Steps of each process."""
MADE = {
    **{"seed": 0, "config_hash": SYNTHETIC, "code_hash": SYNTHETIC, "commit": SYNTHETIC},
    **{"device": "cuda: SYNTHETIC", "dtype": "bfloat16", "kernels": "triton (SYNTHETIC)"},
    **{"threads": 1, "versions": SYNTHETIC, "created": "2026-01-01T00:00:00+00:00"},
}
ANSWER = {
    **{"protocol": "query_agnostic", "schedule": "sequential", "kept_digest": "0" * 12},
    **{"prediction": SYNTHETIC, "score_fixed": np.nan, "kv_bytes_full": 10**9, "decode_rows": 10},
    **{"context_tokens": 8192, "question_tokens": 20, "new_tokens": 20, "truncated": False},
    **{"prompt_hash": SYNTHETIC, "prefill_seconds": 1.0, "decode_seconds": 0.5, "question": 0},
    **dict.fromkeys(("target_hash", "target_digest", "proxy_hash", "proxy_digest"), SYNTHETIC),
}
SHARES = {"target_prefill": 1.0, "proxy_scoring": 0.5, "mapper": 0.08, "scoring": 2.0}
"""Seconds of each phase in prefills of the target, whatever the method."""


def main() -> None:
    """Write the grid, then make everything of it; print what each step took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="a new folder outside results/")
    parser.add_argument("--contexts", type=int, default=20, help="of each task")
    arguments = parser.parse_args()
    config = yaml.safe_load((catalog.ROOT / "config" / "paper.yaml").read_text("utf-8"))
    write_grid(arguments.folder, config, arguments.contexts)
    begun = time.perf_counter()
    with ProcessPoolExecutor(len(AT_ONCE)) as pool:
        done = list(pool.map(partial(_make, arguments.folder), AT_ONCE))
    cpu, peak = (sum(values) for values in zip(*done, strict=True))
    print(
        f"all      {time.perf_counter() - begun:6.1f} s, of which {cpu:.1f} s at work; "
        f"peak memory {peak:.2f} GiB"
    )


def _make(folder: Path, names: Sequence[str]) -> tuple[float, float]:
    """Take steps one after the other; the process's seconds at work and its peak memory in GiB."""
    for name in names:
        since, busy = time.perf_counter(), time.process_time()
        steps_of(folder)[name]()
        seconds, cpu = time.perf_counter() - since, time.process_time() - busy
        print(f"{name:<8} {seconds:6.1f} s, of which {cpu:.1f} s at work", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return time.process_time(), peak


def steps_of(folder: Path) -> dict[str, Callable[[], object]]:
    """What follows from rows: tables, figures, the report.

    Args:
        folder: of the run.
    """
    return {
        "tables": lambda: _tables(folder),
        "figures": lambda: plots.draw_figures(_rows(folder), folder, folder / "figures"),
        "report": lambda: build_report(_rows(folder), folder, folder / "report" / "index.html"),
    }


def write_grid(folder: Path, config: Mapping[str, Any], contexts: int) -> None:
    """Write a run with a row for every context, method and retention of a config.

    Args:
        folder: a new folder, not in `results/`.
        config: of the run.
        contexts: contexts of each task.

    Raises:
        ConfigError: if the folder is in `results/`, or exists.
    """
    if "results" in folder.resolve().parts or folder.exists():
        raise ConfigError(f"{folder}: made-up rows need a new folder outside results/")
    run, draw = Run(config), np.random.default_rng(0)
    files.write_json(folder / "config.json", run.config)
    run.cards.write(folder)
    for family in run.families:
        for data in run.datasets(family, "eval"):
            about = {"family": family, "benchmark": data.benchmark, "task": data.task}
            rows = _answers(run, about, contexts, draw)
            write_parquet(folder / "rows" / family / data.benchmark / f"{data.task}.parquet", rows)
        for fitted_id in run.fitted_ids:
            _write_fit(folder / "mappers" / family / fitted_id, draw)
    for job in measuring_jobs(run):
        path = folder / "efficiency" / job.family / job.file.name
        write_parquet(path, pd.DataFrame(_measurements(run, job, draw)))


def _rows(folder: Path) -> list[Path]:
    return sorted(folder.glob("rows/*/*/*.parquet"))


def _tables(folder: Path) -> None:
    rows, methods = _rows(folder), MethodCards.read(folder)
    written = [
        *write_tables(rows, methods, folder / "tables"),
        *write_ablations(rows, folder),
        write_paper(rows, folder),
        *write_efficiency(folder, methods),
    ]
    write_provenance(folder / "tables", written, rows, measurement_files(folder))


def _answers(
    run: Run, about: Mapping[str, str], contexts: int, draw: np.random.Generator
) -> pd.DataFrame:
    """Rows of a task. Scores rise with retention, by the same curve for every method."""
    assert about["task"] in known_tasks()[about["benchmark"]]
    grid = pd.DataFrame(
        [(m.id, m.scope, rho) for m, rho in run.grid], columns=["method", "scope", "retention"]
    )
    units = pd.DataFrame({"context_id": [f"{about['task']}-{i}" for i in range(contexts)]})
    rows = units.merge(grid, how="cross")
    kept, noise = rows.retention.to_numpy(), draw.random(len(rows))
    made = {
        "score": np.clip(0.9 * kept**0.25 - 0.3 * noise, 0, 1),
        "kl": np.where(kept == 1, 0.0, (1 - kept) * (0.5 + noise)),
        "nll": 1 + noise,
        "achieved_retention": kept,
        "kv_bytes": (kept * 10**9).astype(int),
        "score_seconds": np.where(kept == 1, 0.0, 1 + noise),
        "operations": 10**12 * (1 + noise),
        "method_digest": rows.method,
        "references": [[SYNTHETIC]] * len(rows),
    }
    rows = rows.assign(**about, **_models(run, about["family"]), **MADE, **ANSWER, **made)
    return rows[list(catalog.schema("row")["properties"])]


def _models(run: Run, family: str) -> dict[str, str]:
    return {role: f"SYNTHETIC {run.family(family)[role]['hub']}" for role in ("target", "proxy")}


def _write_fit(folder: Path, draw: np.random.Generator) -> None:
    """A card and a log of training."""
    steps = [
        {"step": step, "steps": 1000, "split": split, "total": 20 / (1 + step / 100), "lr": 1e-3}
        | {f"mass@{rho}": 0.95 - 0.3 / (1 + step / 50) for rho in (0.1, 0.2, 0.3, 0.5)}
        for step in range(10, 1001, 10)
        for split in ("train", "val")
    ]
    files.write_text(folder / "log.jsonl", "".join(json.dumps(s) + "\n" for s in steps))
    metrics = {f"{name}@0.1": float(draw.random()) for name in ("mass", "allocation")}
    files.write_json(folder / "card.json", {"made": SYNTHETIC, "metrics": metrics})


def _measurements(
    run: Run, job: MeasuringJob, draw: np.random.Generator
) -> Iterator[dict[str, Any]]:
    common = {
        **{"family": job.family, "scan": job.scan.name, "weights": job.scan.weights},
        **{
            "inputs": job.inputs,
            "status": "ok",
            "setup": SYNTHETIC,
            "proxy_device": MADE["device"],
        },
        **{"devices": job.scan.gpus or 1, "question_tokens": 16, "new_tokens": 16},
        **_models(run, job.family),
        **MADE,
    }
    for case in job.cases:
        for repeat in range(job.scan.repeats + 1):
            spans = list(_spans(case, 1 + 0.1 * draw.random()))
            end = spans[-1]["end"]
            yield common | {
                **{name: getattr(case, name) for name in ("method", "scope", "schedule")},
                **{name: getattr(case, name) for name in ("tokens", "batch", "retention")},
                "repeat": repeat,
                "spans": spans,
                "cache_seconds": end,
                "first_token_seconds": end + 0.1,
                "decode_seconds": 0.02,
                "request_seconds": end + 0.4,
                "kv_bytes": int(10**5 * case.tokens * case.retention),
                "target_peak_bytes": 10**10 + 10**6 * case.tokens,
                "proxy_peak_bytes": 10**9 + 10**5 * case.tokens if case.proxy else None,
                "memory_seconds": [0.0, end / 2, end],
                "target_bytes": [10**9, 2 * 10**9, 10**9],
                "proxy_bytes": [10**8, 2 * 10**8, 10**8] if case.proxy else [],
            }


def _spans(case: Case, noise: float) -> Iterator[dict[str, Any]]:
    """The phases of a request, one after the other."""
    middle = ("proxy_scoring", "mapper") if case.proxy else ("scoring",)
    at = 0.0
    for phase in ("target_prefill", *(middle if case.retention < 1 else ())):
        end = at + 1e-4 * case.tokens * case.batch * SHARES[phase] * noise
        part = None if phase == "target_prefill" else case.method
        yield {"phase": phase, "part": part, "start": at, "end": end}
        at = end


if __name__ == "__main__":
    main()
