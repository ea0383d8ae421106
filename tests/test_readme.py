"""What the documentation promises exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from proxykv.cli import main
from proxykv.config import catalog

ROOT = catalog.ROOT
README = (ROOT / "README.md").read_text("utf-8")
CLUSTER = (ROOT / "docs" / "cluster.md").read_text("utf-8")


def test_readme_lists_every_method_and_no_other() -> None:
    table = README.partition("| method |")[2].partition("\n\n")[0].splitlines()
    jobs = " ".join(line.split("|")[1] for line in table if line.startswith("| `"))
    assert set(re.findall(r"`(\w+:?)(?:<\w+>)?`", jobs)) == set(catalog.variants())


def test_files_named_in_the_documentation_exist() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_table_of_tasks_has_each_once() -> None:
    page = (ROOT / "docs" / "benchmarks" / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| (\w+) \| `([^`]+)` \|", page, re.MULTILINE)
    paper = ("ruler", "longbench", "scbench")
    tasks = [(name, task) for name in paper for task in catalog.tasks()[name]]
    assert len(listed) == 46
    assert sorted(listed) == sorted(tasks)


def test_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    assert {"run", "test"} <= set(re.findall(r"(?:`|\$ )make (\w+)", README)) <= set(targets)


COMMANDS = re.findall(r"(?:^\$ |\| `)proxykv ([^`#\n]+)", README + CLUSTER, re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.startswith("recover")])
def test_commands_of_the_documentation_parse(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(line), "--help"])
    assert stopped.value.code == 0
    assert line.split(maxsplit=1)[0] in capsys.readouterr().out


def test_the_python_example_prints_what_it_says(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(trained)
    exec(code, {})
    said = re.findall(r"^print.*  # (.*)$", code, flags=re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said
