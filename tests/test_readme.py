"""What README and docs name exists: files, modules, anchors, commands with their options."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from snakemake.cli import parse_args

from proxykv.cli import parser
from proxykv.config import catalog
from proxykv.config.benchmarks import tasks as benchmark_tasks
from proxykv.config.cards import methods_table
from proxykv.config.check import config_problems

ROOT = catalog.ROOT
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text("utf-8")
IDS = [str(page.relative_to(ROOT)) for page in PAGES]

FOLDERS = "baselines|config|docs|models|perf|proxykv|slurm|tests|workflow"
PATHS = re.compile(rf"`((?:{FOLDERS})/[\w./-]+)`")
MODULES = re.compile(r"`((?:proxykv|baselines)(?:\.\w+)+)[`(]")
SAVED = {
    name
    for page in PAGES
    for name in re.findall(r"[Ss]aved?\s(?:\w+\s)?as\s`([^`]+)`", page.read_text("utf-8"))
}
"""Files that readers make themselves."""
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINKS = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def commands(program: str) -> list[str]:
    """Lines that README and docs give for a shell, and commands in their tables, once each."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text("utf-8")
        lines = re.findall(rf"^\$ {program} (.+)$", text, re.MULTILINE)
        lines += re.findall(rf"\| `{program} ([^`\n]+)`", text)
        found |= dict.fromkeys(re.sub(r"\s+# .*", "", line) for line in lines)
    return list(found)


def anchors(page: Path) -> Iterator[str]:
    """The anchors that GitHub makes of a page's headings."""
    for heading in re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_readme_is_short() -> None:
    assert len(README.split()) <= 800


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link, anchor in LINKS.findall(CODE.sub("", page.read_text("utf-8"))):
        if "://" in link:
            continue
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for path in PATHS.findall(text):
        assert path in SAVED or (ROOT / path).exists(), path
    for name in MODULES.findall(text):
        found, rest = name, []
        while catalog.source(found) is None:
            found, _, last = found.rpartition(".")
            rest.insert(0, last)
        holder = importlib.import_module(found)
        for part in rest:
            holder = getattr(holder, part)


def test_generated_pages_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROXYKV_CONFIG", raising=False)
    for name, text in runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]().items():
        page = ROOT / "docs" / "reference" / name
        assert page.read_text("utf-8") == text, f"{name}: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_whole_configs_of_a_page_are_right(page: Path) -> None:
    for block in re.findall(r"```yaml\n(run:.*?)```", page.read_text("utf-8"), re.DOTALL):
        assert config_problems(yaml.safe_load(block)) == []


def test_the_list_of_methods_is_that_of_their_cards() -> None:
    """A user's method need not be listed; one that a shipped config runs has to be."""
    page = (ROOT / "docs" / "reference" / "methods.md").read_text("utf-8")
    table = page[page.index("| method |") :].partition("\n\n")[0].splitlines()
    assert table == [line for line in methods_table() if line in table]
    listed = {line.split("`")[1] for line in table[2:]}
    configs = [ROOT / "config.yaml", *(ROOT / "config").glob("*.yaml")]
    methods = [m for path in configs for m in yaml.safe_load(path.read_text("utf-8"))["methods"]]
    assert {m for m in methods if isinstance(m, str)} <= listed


@pytest.mark.parametrize(("name", "count"), [("ruler", 13), ("longbench", 21), ("scbench", 12)])
def test_the_page_of_a_published_benchmark_lists_its_tasks_once(name: str, count: int) -> None:
    page = (ROOT / "docs" / "benchmarks" / f"{name}.md").read_text("utf-8")
    known = set(benchmark_tasks()[name])
    listed = [task for task in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) if task in known]
    assert len(listed) == len(set(listed)) == count


@pytest.mark.parametrize("line", commands("proxykv"))
def test_proxykv_commands_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = shlex.split(line)
    if arguments[0] in ("forget", "status") and "--config" not in arguments:
        # A page that leaves the option out names the variable that stands for it.
        monkeypatch.setenv("PROXYKV_CONFIG", "results/tiny/config.json")
    options, rest = parser().parse_known_args(arguments)
    if arguments[0] == "lm-eval":
        from lm_eval.__main__ import HarnessCLI

        monkeypatch.setattr(sys, "argv", ["lm_eval", "run", "--model", "proxykv", *rest])
        assert HarnessCLI().parse_args().tasks
        return
    assert not rest
    if arguments[0] == "recover":
        assert options.command[0] == "snakemake"
        parse_args(options.command[1:])


@pytest.mark.parametrize("line", commands("snakemake"))
def test_snakemake_commands_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, options = parse_args(shlex.split(line))
    assert all(str(path) in SAVED or path.is_file() for path in options.configfile or ())
    rules = "".join(path.read_text("utf-8") for path in (ROOT / "workflow").rglob("*.smk"))
    known = {*re.findall(r"^rule (\w+):", rules, re.MULTILINE), *benchmark_tasks()}
    names = {*options.targets, *options.forcerun}
    assert {name for name in names if "/" not in name} <= known
    assert all(name.startswith(("results/", "cache/")) for name in names - known)


@pytest.mark.parametrize("line", commands("python"))
def test_scripts_have_the_options_that_are_given(line: str) -> None:
    script, *arguments = shlex.split(line)
    if script == "-m":
        script = f"{arguments.pop(0).replace('.', '/')}/__main__.py"
    shared = [ROOT / script, *(ROOT / "perf").glob("s*.py")]
    text = "".join(path.read_text("utf-8") for path in shared)
    for option in [word for word in arguments if word.startswith("--")]:
        assert f'"{option}"' in text, option


def test_make_targets_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    named = {line.split()[0] for line in commands("make")} | set(re.findall(r"`make (\w+)", README))
    assert {"run", "test"} <= named <= set(targets)


def test_the_python_example_prints_what_it_says(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(trained)
    exec(code, {})
    printed = re.findall(r"^print.*  # (.*)$", code, flags=re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == printed
