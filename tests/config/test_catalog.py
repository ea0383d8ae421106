"""What a checkout offers is read as syntax; digests tell code edits from comment edits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxykv.config import catalog
from proxykv.config.keys import code
from proxykv.config.keys.code import code_digest
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError

SOURCES = {
    "proxykv/__init__.py": "",
    "proxykv/config/run.py": "SPEC = 1\n",
    "proxykv/used.py": "def used(x):\n    return x + 1\n",
    "proxykv/unused.py": "A = 1\n",
    "proxykv/local.py": "B = 2\n",
    "baselines/__init__.py": "",
    "baselines/mine.py": (
        '"""A method."""\n'
        "import torch\n"
        "from proxykv import used\n"
        "import proxykv.config.run\n\n"
        "VARIANTS = {'mine': {'scope': 'head'}, 'mine_wide': {'scope': 'global'}}\n"
        "CARDS = {'mine': {'label': 'Mine'}}\n\n\n"
        "class Mine:\n"
        '    """Its class."""\n\n'
        "    def score(self, prefill):\n"
        '        """Its scores."""\n'
        "        from proxykv.local import B\n\n"
        "        return used.used(prefill) + B  # why\n"
    ),
    "theirs/__init__.py": "",
    "theirs/part.py": "C = 3\n",
    "theirs/method.py": "import numpy\nfrom .part import C\n\n\nclass Theirs:\n    C = C\n",
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small checkout in place of the real one."""
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.setattr(catalog, "ROOT", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """Read every file again, as the next process would."""
    for cached in (
        code._read,
        code._code_digest,
        catalog._literal,
        catalog._method_files,
        catalog.variants,
        catalog.cards,
    ):
        cached.cache_clear()


def edited(checkout: Path, name: str, old: str, new: str) -> str:
    path = checkout / name
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    forget()
    return code_digest("baselines.mine:Mine")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("baselines/mine.py", "  # why", "  # because"),
        ("baselines/mine.py", '"""A method."""', '"""The best method."""'),
        ("baselines/mine.py", '"""Its class."""', '"""A class."""'),
        ("baselines/mine.py", '"""Its scores."""', '"""Scores."""'),
        ("baselines/mine.py", "        return used", "\n        return used"),
        ("baselines/mine.py", "'Mine'}", "'My method', 'color': '#000000'}"),
        ("baselines/mine.py", "'head'", "'layer'"),  # a setting: it has its own place in keys
        ("baselines/mine.py", "class Mine", "def fit(files):\n    pass\n\n\nclass Mine"),
        ("baselines/mine.py", "def score(self, prefill)", "def score(self, prefill: int) -> str"),
        ("proxykv/used.py", "x + 1", "(x + 1)  # one more"),
        ("proxykv/used.py", "def used", "def another():\n    pass\n\n\ndef used"),
        ("proxykv/unused.py", "A = 1", "A = 2"),
        ("proxykv/config/run.py", "SPEC = 1", "SPEC = 2"),
    ],
)
def test_the_digest_ignores_what_changes_no_number(
    checkout: Path, name: str, old: str, new: str
) -> None:
    before = code_digest("baselines.mine:Mine")
    assert edited(checkout, name, old, new) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("baselines/mine.py", "+ B", "- B"),
        ("proxykv/used.py", "x + 1", "x + 2"),
        ("proxykv/local.py", "B = 2", "B = 3"),  # imported inside a function
    ],
)
def test_the_digest_notices_code(checkout: Path, name: str, old: str, new: str) -> None:
    before = code_digest("baselines.mine:Mine")
    assert edited(checkout, name, old, new) != before


PACKAGE = {
    "theirs/__init__.py": "from .tables import TABLE\n",
    "theirs/tables.py": (
        "from typing import TYPE_CHECKING\n"
        "from theirs import parts as these\n"
        "import theirs.registry\n"
        "if TYPE_CHECKING:\n    from theirs import typed\n"
        "TABLE = {'a': these.one}\n"
        "TABLE['b'] = 2\n"
        "OTHER = 1\n"
        "def other():\n    return OTHER\n"
    ),
    "theirs/parts.py": (
        "def one():\n    return _two()\n\n\ndef _two():\n    return 2\n\n\n"
        "X = 1\n\n\ndef x():\n    return X\n"
    ),
    "theirs/registry.py": (
        "KNOWN = []\n\n\ndef register(f):\n    KNOWN.append(f)\n    return f\n\n\n"
        "@register\ndef listed():\n    return 1\n\n\n"
        "def unlisted():\n    return 1\n\n\nKNOWN.sort()\n"
    ),
    "theirs/typed.py": "print('never loaded')\n",
}


@pytest.mark.parametrize(
    ("name", "old", "new", "counts"),
    [
        ("parts", "return 2", "return 3", True),  # reached through a module's name
        ("parts", "X = 1", "X = 2", False),
        ("tables", "'b'] = 2", "'b'] = 3", True),
        ("tables", "OTHER = 1", "OTHER = 2", False),
        ("registry", "listed():\n    return 1", "listed():\n    return 2", True),
        ("registry", "def unlisted():\n    return 1", "def unlisted():\n    return 2", False),
        ("registry", "KNOWN.sort()", "KNOWN.clear()", True),  # runs when the module is loaded
        ("typed", "never", "not", False),
    ],
)
def test_what_is_reached_counts(
    checkout: Path, name: str, old: str, new: str, counts: bool
) -> None:
    for path, text in PACKAGE.items():
        (checkout / path).write_text(text, "utf-8")
    forget()
    before = code_digest("theirs:TABLE")
    path = checkout / "theirs" / f"{name}.py"
    text = path.read_text("utf-8")
    first = text.index(old)
    path.write_text(text[:first] + new + text[first + len(old) :], "utf-8")
    forget()
    assert (code_digest("theirs:TABLE") != before) == counts


def test_what_runs_when_a_package_is_loaded_counts(checkout: Path) -> None:
    """Whoever imports `theirs.inner.part` loads `theirs` and `theirs.inner` first."""
    inner = checkout / "theirs" / "inner"
    inner.mkdir()
    (inner / "__init__.py").write_text("", "utf-8")
    (inner / "part.py").write_text("def one():\n    return 1\n", "utf-8")
    digests = [code_digest("theirs.inner.part:one")]
    for package in (inner, inner.parent):
        (package / "__init__.py").write_text("print('loaded')\n", "utf-8")
        forget()
        digests.append(code_digest("theirs.inner.part:one"))
    assert len(set(digests)) == 3


def test_a_name_that_is_not_there_has_no_digest(checkout: Path) -> None:
    with pytest.raises(ConfigError, match=r"module 'baselines.mine' defines no 'Yours'"):
        code_digest("baselines.mine:Yours")


@pytest.mark.parametrize(
    "module", ["baselines.nowhere", "proxykv.benchmarks.longbench-x", "nothing"]
)
def test_a_module_that_is_not_there_has_no_digest(checkout: Path, module: str) -> None:
    with pytest.raises(ConfigError, match=f"no module '{module}'"):
        code_digest("baselines.mine", module)


@pytest.mark.parametrize(("name", "old"), [("method", "C = C"), ("part", "C = 3")])
def test_a_class_of_the_users_is_code_too(checkout: Path, name: str, old: str) -> None:
    module, _ = catalog.module_of("theirs.method:Theirs")
    before = code_digest(module)
    path = checkout / "theirs" / f"{name}.py"
    path.write_text(path.read_text("utf-8").replace(old, f"{old}  # a comment"), "utf-8")
    forget()
    assert code_digest(module) == before
    path.write_text(path.read_text("utf-8").replace(old, "D = C = 4"), "utf-8")
    forget()
    assert code_digest(module) != before


def test_sources_are_found_in_the_checkout_and_among_installed_packages(checkout: Path) -> None:
    assert catalog.source("theirs.method") == checkout / "theirs" / "method.py"
    assert catalog.source("theirs") == checkout / "theirs" / "__init__.py"
    assert catalog.source("theirs.method.Theirs") is None
    assert catalog.source("nowhere") is catalog.source("nowhere.at_all") is None
    installed = catalog.source("torch.nn.functional")
    assert installed is not None
    assert installed.parts[-3:] == ("torch", "nn", "functional.py")
    shadow = checkout / "torch.py"
    shadow.write_text("", "utf-8")
    assert catalog.source("torch") == shadow


def test_ids_with_a_colon_need_no_entry(checkout: Path) -> None:
    expected = {"base": "theirs.method:Theirs", "scope": "head", "donor": True}
    assert catalog.settings("theirs.method:Theirs") == expected
    assert catalog.settings("mine") == {"base": "mine", "scope": "head"}
    assert catalog.settings("yours") is catalog.settings("yours:") is None
    adapter = "VARIANTS = {'theirs:': {'scope': 'global'}}\n"
    (checkout / "baselines" / "adapter.py").write_text(adapter, "utf-8")
    forget()
    assert catalog.settings("theirs:Class") == {
        "base": "adapter", "scope": "global", "params": {"name": "Class"}
    }  # fmt: skip
    assert catalog.settings("theirs.method:Theirs") == expected


def test_methods_are_found_by_their_files(checkout: Path) -> None:
    assert dict(catalog.variants()) == {
        "mine": {"base": "mine", "scope": "head"},
        "mine_wide": {"base": "mine", "scope": "global"},
    }
    (checkout / "baselines" / "_part.py").write_text("VARIANTS = {'part': {}}\n", "utf-8")
    (checkout / "baselines" / "other.py").write_text("VARIANTS = {'other': {}}\n", "utf-8")
    forget()
    assert set(catalog.variants()) == {"mine", "mine_wide", "other"}


def test_every_method_of_the_project_has_its_settings() -> None:
    for method, settings in catalog.variants().items():
        assert settings["scope"] in ("none", "global", "layer", "head"), method
        known = {
            "base",
            "scope",
            "params",
            "fitted_id",
            "inputs",
            "donor",
            "uses",
            "sets",
            "install",
        }
        assert set(settings) <= known, method
        assert set(settings.get("uses", ())) <= set(settings.get("params", {})), method


@pytest.mark.parametrize(
    ("edited_file", "reached"),
    [
        ("baselines/snapkv.py", {"snapkv"}),
        ("baselines/kvzip.py", {"kvzip"}),
        ("baselines/random.py", {"random", "prior"}),  # which draws with its noise
        ("proxykv/scoring/hidden_states.py", {"surrogate", "kvzip"}),
    ],
)
def test_an_edit_reaches_the_methods_that_run_the_code(
    edited_file: str, reached: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("baselines", "proxykv"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(catalog.ROOT / package, tmp_path / package, ignore=ignored)
    monkeypatch.setattr(catalog, "ROOT", tmp_path)

    def digests() -> dict[str, str]:
        forget()
        bases = {settings["base"] for settings in catalog.variants().values()}
        return {base: code_digest(catalog.module_of(base)[0]) for base in bases}

    before = digests()
    with (tmp_path / edited_file).open("a", encoding="utf-8") as file:
        file.write("\nEDITED = True\n")
    after = digests()
    forget()
    changed = {base for base in before if before[base] != after[base]}
    alone = edited_file.startswith("baselines")
    assert changed == reached if alone else changed >= reached
    assert "streaming" not in changed


def test_families_are_named_as_their_files() -> None:
    assert {name: family["family"] for name, family in catalog.families().items()} == {
        name: name for name in catalog.families()
    }


def test_digests_follow_the_value() -> None:
    assert digest({"a": 1, "b": [2, None]}) == digest({"b": (2, None), "a": 1})
    assert digest(["é"]) != digest(["e"])
    assert len(digest(None)) == 12


@pytest.mark.parametrize("module", ["config.run", "cli", "runs.status"])
def test_planning_loads_no_torch(module: str) -> None:
    code = (
        "import sys, yaml\n"
        f"import proxykv.{module}\n"
        "from proxykv.config.run import Run\n"
        "from proxykv.config.keys.code import method_digest\n"
        "run = Run(yaml.safe_load(open('config.yaml')))\n"
        "[(job.dataset.path, job.file('rows')) for job in run.jobs()]\n"
        "[method_digest(method) for method in run.methods.values()]\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'planning loads torch'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=catalog.ROOT, check=True)
