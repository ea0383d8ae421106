"""Which small edits of the code does no test notice? A seeded sample, made with mutmut's operators.

`make mutants` changes one place of a copy of the last commit at a time, runs the tests of its
module, and writes `docs/results/mutants.md`. Killed mutants are noted in a journal, and groups
whose tests pass without a mutant: a second call continues, and tries the survivors again.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import libcst as cst
import libcst.matchers as m
import pytest
import yaml
from mutmut.mutation.mutators import mutation_operators, operator_string

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "mutants.md"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.yaml")
BY_HAND = Path(__file__).with_name("edits_by_hand.md")  # a section of the page
JOURNAL = ROOT / "results" / "mutants.jsonl"
LOGGING = m.Call(m.Attribute(m.Name("log")))
SLOWEST = 900  # seconds; a test that hangs has noticed the mutant
PRELOADED = [
    *("numpy", "pandas", "scipy.stats", "seaborn", "hypothesis", "pytest", "beartype", "jaxtyping"),
    *("torch", "sympy", "transformers", "transformers.models.auto.modeling_auto"),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "qwen2", "qwen3")),
]


@dataclass(frozen=True)
class Group:
    """Modules, the tests that must notice a change of them, and how many mutants to try."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]
    count: int


GROUPS = {
    "grading": Group(
        (
            "proxykv/benchmarks/longbench/__init__.py",
            "proxykv/benchmarks/longbench/metrics.py",
            "proxykv/benchmarks/ruler/__init__.py",
            "proxykv/benchmarks/ruler/tasks.py",
            "proxykv/benchmarks/scbench/__init__.py",
            "proxykv/benchmarks/scbench/metrics.py",
            "proxykv/benchmarks/scbench/repoqa.py",
            "proxykv/steps/grade.py",
        ),
        ("tests/benchmarks", "tests/steps/test_grade.py"),
        35,
    ),
    "keys": Group(
        (
            "proxykv/config/catalog.py",
            "proxykv/config/jobs.py",
            "proxykv/config/keys",
            "proxykv/config/paths.py",
            "proxykv/config/run.py",
            "proxykv/config/settings",
            "proxykv/config/signature.py",
            "proxykv/runtime/digest.py",
        ),
        ("tests/config",),
        35,
    ),
    "report": Group(
        (
            "proxykv/report/tables",
            *(
                f"proxykv/report/{name}.py"
                for name in ("stats", "verdict", "ablations", "cells", "tabulate", "explorer")
            ),
        ),
        ("tests/report",),
        45,
    ),
    "decontamination": Group(
        ("proxykv/mapper/corpus.py", "proxykv/steps/screen.py"),
        tuple(f"tests/steps/test_{name}.py" for name in ("screen", "fit", "transfer")),
        15,
    ),
    "training": Group(
        ("proxykv/mapper", "proxykv/steps/fit.py"),
        (
            "tests/mapper",
            "tests/scoring/test_contract.py",
            "tests/scoring/test_controls.py",
            "tests/steps/test_screen.py",
        ),
        40,
    ),
    "controls": Group(
        ("baselines", "proxykv/scoring/kvzip.py"),
        ("tests/scoring", "tests/mapper/test_surrogate.py", "tests/parity"),
        40,
    ),
}


@dataclass(frozen=True)
class Mutant:
    """One node of a file, and what replaces it."""

    path: str
    before: str
    after: str
    occurrence: int
    """Which of the file's places that read like this."""
    module: cst.Module
    node: cst.CSTNode
    replacement: cst.CSTNode

    @property
    def text(self) -> str:
        """The whole file."""
        changed = self.module.deep_replace(self.node, self.replacement)
        assert isinstance(changed, cst.Module)
        return changed.code

    def draw(self, seed: int) -> str:
        """Decides whether it is in the sample; other lines of the file do not matter."""
        what = (seed, self.path, self.before, self.after, self.occurrence)
        return hashlib.sha256(repr(what).encode()).hexdigest()

    def __str__(self) -> str:
        """The lines that differ."""
        lines = list(difflib.ndiff(self.module.code.splitlines(), self.text.splitlines()))
        before, after = (
            " ".join(line[2:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
        )
        return f"{self.path}: `{before}` → `{after}`"


class Places(cst.CSTVisitor):
    """Nodes with their replacements; not of annotations, texts, log lines and error messages."""

    LEFT_ALONE = (cst.Annotation, cst.Decorator, cst.Import, cst.Raise, cst.SimpleString)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, list[cst.CSTNode]]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Note a node's replacements; False where nothing below it is to be replaced."""
        if isinstance(node, self.LEFT_ALONE) or m.matches(node, LOGGING):
            return False
        operators = [op for kind, op in mutation_operators if isinstance(node, kind)]
        made = [new for op in operators if op is not operator_string for new in op(node)]
        if made:
            self.found.append((node, made))
        return True


def mutants(root: Path, path: Path, seed: int) -> Iterator[Mutant]:
    """One mutant of each place of a file that mutmut can change."""
    module, places, occurrences = cst.parse_module(path.read_text("utf-8")), Places(), Counter()
    module.visit(places)
    for node, replacements in places.found:
        before = module.code_for_node(node)
        made = [
            Mutant(
                path=path.relative_to(root).as_posix(),
                before=before,
                after=module.code_for_node(new),
                occurrence=occurrences[before],
                module=module,
                node=node,
                replacement=new,
            )
            for new in replacements
        ]
        occurrences[before] += 1
        yield min(made, key=lambda mutant: mutant.draw(seed))


def sample(root: Path, group: Group, seed: int) -> list[Mutant]:
    """A group's mutants with the smallest hashes."""
    paths = [path for source in group.sources for path in files(root / source)]
    known = [mutant for path in paths for mutant in mutants(root, path, seed)]
    return sorted(known, key=lambda mutant: mutant.draw(seed))[: group.count]


def files(path: Path) -> list[Path]:
    """Python files of a folder, or the file."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def require_passing(root: Path, group: Group) -> None:
    """Exit unless the tests pass without a mutant: otherwise nothing can be learnt from them."""
    if run_tests(root, test_files(root, group)) != "survived":
        raise SystemExit((root / "pytest.log").read_text("utf-8")[-2000:])


def outcome(root: Path, group: Group, mutant: Mutant) -> str:
    """How the group's tests end with this mutant in a copy: killed, survived or timeout."""
    path = root / mutant.path
    original = path.read_text("utf-8")
    path.write_text(mutant.text, "utf-8")
    try:
        return next((how for how in _tried(root, group, mutant) if how != "survived"), "survived")
    finally:
        path.write_text(original, "utf-8")


def _tried(root: Path, group: Group, mutant: Mutant) -> Iterator[str]:
    """Run the test files that import the mutant's module, and then the others.

    Either part begins with those that are named after the module or its folder.
    """
    words = mutant.path.removesuffix(".py").removesuffix("/__init__").split("/")
    package, name = ".".join(words[:-1]), words[-1]
    imported = re.compile(rf"{package}\.{name}\b|from {package} import .*\b{name}\b")
    tests = test_files(root, group)
    tests = sorted(tests, key=lambda test: -sum(word in test.stem for word in words[1:]))
    importing = {test for test in tests if imported.search(test.read_text("utf-8"))}
    for part in (importing, set(tests) - importing):
        if part:
            yield run_tests(root, [test for test in tests if test in part])


def test_files(root: Path, group: Group) -> list[Path]:
    """A group's test files."""
    return [path for test in group.tests for path in files(root / test) if "test_" in path.name]


def run_tests(root: Path, tests: list[Path]) -> str:
    """Run pytest in a process that has imported the libraries already."""
    process = multiprocessing.get_context("forkserver").Process(
        target=_pytest, args=(root, list(map(str, tests)))
    )
    process.start()
    process.join(SLOWEST)
    if process.exitcode is None and process.pid:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return "timeout"
    return (
        "survived"
        if process.exitcode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        else "killed"
    )


def _pytest(root: Path, tests: list[str]) -> None:
    os.setsid()  # so that whatever a test starts ends with it
    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root)
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True  # a mutant must not be mistaken for the next one
    with Path("pytest.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
        log.flush()
        os._exit(code)


def page(tried: dict[str, list[tuple[Mutant, str]]], equivalent: dict[str, str], facts: str) -> str:
    """The page of results."""
    shown = {
        name: [(one, "equivalent" if str(one) in equivalent else how) for one, how in pairs]
        for name, pairs in tried.items()
    }
    kinds = ("killed", "timeout", "equivalent", "survived", "not tried")
    counts = {name: Counter(how for _, how in pairs) for name, pairs in shown.items()}
    total = sum(counts.values(), Counter())
    lines = [
        "# Mutants: which edits of the code does no test notice?",
        "",
        f"Tests notice {total['killed'] + total['timeout']} of {total.total()} edits of one place; "
        f"{total['equivalent']} change nothing, {total['survived']} go unnoticed and "
        f"{total['not tried']} were not tried.",
        "",
        "```console",
        "$ make mutants",
        "```",
        "",
        "The command draws places of the code by a seed, changes one at a time with an operator",
        "of [mutmut](https://mutmut.readthedocs.io) and runs the tests of the module. Texts, log",
        "lines and error messages are left alone. Tests that take over 15 minutes have noticed",
        "the edit.",
        "",
        facts,
        "",
        f"| part | mutants | {' | '.join(kinds)} |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, count in [*counts.items(), ("**all**", total)]:
        cells = " | ".join(str(count[kind]) for kind in kinds)
        lines.append(f"| {name} | {count.total()} | {cells} |")
    lines += ["", BY_HAND.read_text("utf-8").rstrip()]
    for kind in ("survived", "equivalent", "not tried", "timeout", "killed"):
        lines += ["", f"## {kind.capitalize()}", ""]
        for pairs in shown.values():
            lines += [
                f"- {one}" + (f": {equivalent[str(one)]}" if kind == "equivalent" else "")
                for one, how in pairs
                if how == kind
            ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try the sample, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", nargs="*", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--minutes", type=float, default=math.inf, help="no new mutant after")
    args, start = parser.parse_args(), time.monotonic()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    os.environ |= {"TRITON_INTERPRET": "1"}  # before anything imports Triton
    multiprocessing.set_forkserver_preload(PRELOADED)
    JOURNAL.touch()
    journal = [json.loads(line) for line in JOURNAL.read_text("utf-8").splitlines()]
    done = {entry["draw"]: entry["outcome"] for entry in journal}
    listed = yaml.safe_load(EQUIVALENT.read_text("utf-8")) or {}

    def note(draw: str, outcome: str, of: str) -> None:
        done[draw] = outcome
        with JOURNAL.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"draw": draw, "outcome": outcome, "mutant": of}) + "\n")
        print(outcome, of, flush=True)

    commit = subprocess.check_output(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, text=True
    ).strip()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "copy"
        subprocess.run(["git", "clone", "-q", "--shared", ROOT, root], check=True)
        tried = {}
        for name in args.groups:
            group, tried[name] = GROUPS[name], []
            for mutant in sample(root, group, args.seed):
                key = mutant.draw(args.seed)
                in_time = time.monotonic() < args.minutes * 60 + start
                to_try = key not in done or (done[key] == "survived" and str(mutant) not in listed)
                if to_try and in_time:
                    if f"{commit} {name}" not in done:
                        require_passing(root, group)
                        note(f"{commit} {name}", "passed", f"tests of {name}")
                    note(key, outcome(root, group, mutant), str(mutant))
                tried[name].append((mutant, done.get(key, "not tried")))
    facts = f"{date.today()}, commit `{commit}`, seed {args.seed}."
    PAGE.write_text(page(tried, listed, facts), "utf-8")


if __name__ == "__main__":
    main()
