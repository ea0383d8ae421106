"""Folders import one way, and what needs no model loads no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from proxykv.config import catalog

DATA = ["runtime", "config"]
MODELS = [*DATA, "benchmarks", "kernels", "model", "scoring", "mapper"]
EVERY = [*MODELS, "efficiency", "report", "runs", "steps", "integrations", "api"]
MAY_IMPORT = {
    "runtime": ["runtime"],
    **dict.fromkeys(["config", "benchmarks", "report"], DATA),
    "runs": [*DATA, "benchmarks"],
    "kernels": ["runtime"],
    "model": [*DATA, "kernels"],
    **{folder: MODELS[: MODELS.index(folder)] for folder in ("scoring", "mapper")},
    **dict.fromkeys(["baselines", "efficiency"], MODELS),
    **{folder: EVERY[: EVERY.index(folder)] for folder in ("steps", "integrations", "api")},
    **dict.fromkeys(["pretrain", "cli"], EVERY),
}
"""Other folders that a folder (or a module of the package) may import."""

TORCHLESS = ("runtime", "config", "benchmarks", "report", "runs")


def modules(package: str) -> dict[str, Path]:
    """Modules of a package by their dotted names, its subpackages' too."""
    found = {}
    for path in sorted((catalog.ROOT / package).rglob("*.py")):
        parts = path.relative_to(catalog.ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


ALL = modules("proxykv") | modules("baselines")


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


def folder(module: str) -> str:
    top, _, rest = module.partition(".")
    return "baselines" if top == "baselines" else rest.partition(".")[0]


@pytest.mark.parametrize("module", [m for m in ALL if folder(m) not in ("", "__main__")])
def test_folders_import_one_way(module: str) -> None:
    allowed = {folder(module), *MAY_IMPORT[folder(module)], ""}
    wrong = sorted(name for name in imports(module) if folder(name) not in allowed)
    assert not wrong, f"{module} must not import {', '.join(wrong)}"


def test_nothing_but_main_imports_the_command_line() -> None:
    assert [m for m in ALL if "proxykv.cli" in imports(m)] == ["proxykv.__main__"]


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


def test_the_audit_shares_no_code_with_what_it_audits() -> None:
    """What it reaches makes no tables, and it aggregates without pandas."""
    audit = {module for module in ALL if module.startswith("proxykv.runs.audit")}
    reached, pending = set(), [*audit]
    while pending:
        module = pending.pop()
        if module not in reached:
            reached.add(module)
            pending += imports(module)
    assert len(audit) > 1
    assert {module for module in reached if folder(module) in ("report", "steps")} == set()
    for module in audit:
        nodes = ast.walk(ast.parse(ALL[module].read_text("utf-8")))
        names = {
            ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert not [name for name in names if "pandas" in name], module


def test_folders_stay_small_and_say_what_they_are_for() -> None:
    for name in MAY_IMPORT:
        path = catalog.ROOT / ("baselines" if name == "baselines" else f"proxykv/{name}")
        if not path.is_dir():
            continue
        files = [file for file in path.glob("*.py") if file.stem != "__init__"]
        assert len(files) <= 12, f"{name} holds {len(files)} modules"
        text = ast.get_docstring(ast.parse((path / "__init__.py").read_text("utf-8"))) or ""
        assert "mports" in text, f"{name}: its docstring does not say what it imports"


def test_data_and_reports_load_no_torch() -> None:
    names = [module for module in ALL if folder(module) in TORCHLESS]
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {names!r}:",
            "    importlib.import_module(name)",
            "    assert 'torch' not in sys.modules, name + ' loads torch'",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=catalog.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_workflow_plans_with_config_and_runtime_alone() -> None:
    smk = [catalog.ROOT / "Snakefile", *(catalog.ROOT / "workflow").rglob("*.smk")]
    lines = [line for path in smk for line in path.read_text("utf-8").splitlines()]
    used = {
        line.split()[1] for line in lines if line.startswith(("from proxykv", "import proxykv"))
    }
    assert used
    assert {folder(module) for module in used} <= set(DATA)
