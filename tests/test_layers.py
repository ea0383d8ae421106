"""Imports go one way, and what needs no model loads no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from proxykv import catalog

ORDER = [
    # What a run consists of.
    *("proxykv.catalog", "proxykv.signature", "proxykv.check", "proxykv.cells", "proxykv.spec"),
    *("proxykv.examples", "proxykv.corpus", "proxykv.estimate"),
    # Scores, kept sets, caches, models.
    *("proxykv.accelerator", "proxykv.together", "proxykv.timeline"),
    *("proxykv.lock", "proxykv.scratch"),
    *(
        "proxykv.draw",
        "proxykv.tensors",
        "proxykv.select",
        "proxykv.attention",
        "proxykv.cache",
        "proxykv.sweep",
        "proxykv.linear",
    ),
    *("proxykv.pruned", "proxykv.models", "proxykv.prefill", "proxykv.decode", "proxykv.scorer"),
    *("proxykv.watch", "proxykv.inputs"),
    # Methods, and the mapper that one of them trains.
    *("proxykv.fitted", "proxykv.matching"),
    *("proxykv.loss", "proxykv.fidelity", "proxykv.stages", "proxykv.mapper", "proxykv.stored"),
    *("proxykv.checkpoint", "proxykv.train", "baselines", "proxykv.pipeline"),
    # Jobs.
    *("proxykv.devices", "proxykv.journal", "proxykv.parquet"),
    *("proxykv.provenance", "proxykv.rows", "proxykv.generate", "proxykv.wheels", "proxykv.pair"),
    *("proxykv.convert", "proxykv.scores", "proxykv.screen", "proxykv.fit", "proxykv.transfer"),
    *("proxykv.progress", "proxykv.recover", "proxykv.api", "proxykv.cli"),
]
"""Every module may import those before it. `baselines` stands for its files."""

SCORER_SIDE = {
    "proxykv.spec",  # for ConfigError
    *("proxykv.attention", "proxykv.cache", "proxykv.models", "proxykv.prefill"),
    *("proxykv.scorer", "proxykv.select", "proxykv.tensors", "proxykv.fitted", "proxykv.mapper"),
    *("proxykv.accelerator", "proxykv.matching"),
    *("proxykv.stored", "proxykv.train", "proxykv.watch", "proxykv.inputs", "proxykv.draw"),
}
"""What a method's file may use, besides other methods' files."""

TORCHLESS = [
    *("proxykv.examples", "proxykv.data", "proxykv.journal", "proxykv.parquet", "proxykv.grade"),
    *(
        "proxykv.stats",
        "proxykv.tables",
        "proxykv.tabulate",
        "proxykv.plots",
        "proxykv.report.build",
    ),
    *("proxykv.devices", "proxykv.lock", "proxykv.progress", "proxykv.recover"),
    *("proxykv.screen", "proxykv.corpus", "proxykv.estimate"),
]


def modules(package: str) -> dict[str, Path]:
    """Modules of a package by their dotted names, its subpackages' too."""
    found = {}
    for path in sorted((catalog.ROOT / package).rglob("*.py")):
        parts = path.relative_to(catalog.ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


ALL = modules("proxykv") | modules("baselines")
TORCHLESS += [name for name in ALL if name.startswith(("proxykv.tasks.", "proxykv.plots."))]


class RunTime(ast.NodeTransformer):
    """Leaves out what only type checkers read."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of this project that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(RunTime().visit(ast.parse(ALL[module].read_text("utf-8")))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & set(ALL) or {node.module}
    return frozenset(names & set(ALL))


def place(module: str) -> int:
    return ORDER.index("baselines" if module.startswith("baselines") else module)


@pytest.mark.parametrize("module", [m for m in ORDER if m != "baselines"])
def test_imports_go_one_way(module: str) -> None:
    ranked = {name for name in imports(module) if name in ORDER or name.startswith("baselines")}
    late = sorted(name for name in ranked if place(name) > place(module))
    assert not late, f"{module} must not import {', '.join(late)}"


@pytest.mark.parametrize("module", [m for m in ALL if m.startswith("baselines.")])
def test_methods_use_the_scorers_side_only(module: str) -> None:
    ours = {name for name in imports(module) if not name.startswith("baselines")}
    assert ours <= SCORER_SIDE


def test_nothing_imports_the_command_line_or_the_scripts() -> None:
    for module in ALL:
        assert not imports(module) & {"proxykv.pretrain", "proxykv.__main__"}, module
        if module != "proxykv.__main__":
            assert "proxykv.cli" not in imports(module), module


def test_there_are_no_cycles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in imports(module) - {module}:
                visit(other, (*path, module))
            done.add(module)

    for module in ALL:
        visit(module, ())


def test_tasks_tables_plots_and_reports_load_no_torch() -> None:
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {TORCHLESS!r}:",
            "    importlib.import_module(name)",
            "    assert 'torch' not in sys.modules, name + ' loads torch'",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=catalog.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_workflow_plans_with_the_spec_alone() -> None:
    smk = [catalog.ROOT / "Snakefile", *(catalog.ROOT / "workflow").rglob("*.smk")]
    lines = [line for path in smk for line in path.read_text("utf-8").splitlines()]
    used = {
        line.split()[1] for line in lines if line.startswith(("from proxykv", "import proxykv"))
    }
    assert used <= {"proxykv.catalog", "proxykv.estimate", "proxykv.lock", "proxykv.spec"}
