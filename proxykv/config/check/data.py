"""Mistakes in a config's benchmarks and in its corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from proxykv.config import benchmarks, catalog, signature
from proxykv.config.check.schema import departures, did_you_mean, repeated

BUILD_GIVEN = ("task", "tokenizer", "seed", "split", "max_context", "downloads")
"""Arguments of a benchmark's `build` that the run provides."""
SIZES = ("contexts", "lengths")
"""Arguments that an entry of a config provides besides its options."""

HELD_OUT = {"scbench": {"repoqa", "repoqa_and_kv"}}
"""Tasks that no mapper is trained on: they show zero-shot transfer (the paper's figure 4)."""


def dataset_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Benchmarks, tasks and options that are unknown, repeated, or not for this section."""
    known = benchmarks.tasks()
    for section in ("benchmarks", "corpus"):
        listed: list[str] = []
        for i, entry in enumerate(config.get(section, ())):
            where = f"config.{section}[{i}]"
            name = entry["benchmark"]
            if section == "corpus":
                yield from _held_out_problems(entry, where)
            if not benchmarks.exists(name):
                yield f"{where}: unknown benchmark {name!r}; {did_you_mean(name, known)}"
                continue
            if problems := list(benchmarks.contract_problems(name)):
                yield from (f"{where}: {problem}" for problem in problems)
                continue
            for task in entry["tasks"]:
                if task not in known[name]:
                    yield f"{where}: {name} has no task {task!r}; {did_you_mean(task, known[name])}"
            for key in {"part", "held_out"} & entry.keys() if section == "benchmarks" else ():
                yield f"{where}: {key!r} is for the corpus; remove it"
            yield from _build_problems(entry, where)
            if section == "corpus" and not _trains(name):
                yield f"{where}: {name} has no contexts to train on; name another benchmark"
            listed += [f"{name}/{task}" for task in entry["tasks"]]
        if section == "benchmarks":
            yield from repeated(listed, "config.benchmarks")


def _held_out_problems(entry: Mapping[str, Any], where: str) -> Iterator[str]:
    """What the corpus may not hold, as a task or as a source of text."""
    name = entry["benchmark"]
    for task in sorted(HELD_OUT.get(name, set()) & set(entry["tasks"])):
        yield f"{where}: {name}/{task} is held out from all training; remove it"
    if "repoqa" in str(entry.get("options", {})).lower():
        yield f"{where}.options: RepoQA is held out from all training; take another source"


def length_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Lengths that are too short for a task, or longer than a family's window."""
    known = catalog.families()
    windows = {name: known[name].get("max_context") for name in config["families"] if name in known}
    for section in ("benchmarks", "corpus"):
        for i, entry in enumerate(config.get(section, ())):
            rows = benchmarks.tasks().get(entry["benchmark"], {})
            for task in entry["tasks"] if "lengths" in entry else ():
                least = rows[task].shortest if task in rows else 1
                if (length := min(entry["lengths"])) < least:
                    yield (
                        f"config.{section}[{i}].lengths: {length} tokens cannot hold a context of "
                        f"{entry['benchmark']}/{task}; give {least} or more"
                    )
            longest = max(entry.get("lengths", [0]))
            for family, window in windows.items():
                if window and longest > window:
                    yield (
                        f"config.{section}[{i}].lengths: {longest} tokens are more than family "
                        f"{family!r} may see ({window}, max_context of its file)"
                    )


def _build_problems(entry: Mapping[str, Any], where: str) -> Iterator[str]:
    """Whether a benchmark's `build` takes what an entry gives."""
    name = entry["benchmark"]
    accepted = signature.parameters(f"proxykv.benchmarks.{name}", "build", BUILD_GIVEN)
    if accepted is None:
        return
    for size in SIZES:
        if size in entry and size not in accepted["properties"]:
            yield f"{where}: {name} takes no {size!r}; leave it out"
        if size in accepted["required"] and size not in entry:
            yield f"{where}: {name} needs {size!r}"
    options = {k: v for k, v in accepted["properties"].items() if k not in SIZES}
    required = [key for key in accepted["required"] if key not in SIZES]
    accepted = {**accepted, "properties": options, "required": required}
    yield from departures(entry.get("options", {}), accepted, f"{where}.options")


def _trains(name: str) -> bool:
    """Whether a benchmark's `build` makes contexts of the split "train"."""
    accepted = signature.parameters(f"proxykv.benchmarks.{name}", "build", ()) or {}
    splits = accepted.get("properties", {}).get("split", {})
    return "train" in splits.get("enum", ["train"])
