"""What the documentation promises exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from proxykv import catalog
from proxykv.cli import main

ROOT = catalog.ROOT
README = (ROOT / "README.md").read_text("utf-8")


def test_readme_lists_every_method_and_no_other() -> None:
    table = [line for line in README.splitlines() if line.startswith("| `")]
    cells = " ".join(line.split("|")[1] for line in table if "/" not in line.split("|")[1])
    assert set(re.findall(r"`(\w+:?)(?:<\w+>)?`", cells)) == set(catalog.variants())


def test_files_named_in_the_documentation_exist() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name} links to {link}"


def test_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    assert {"run", "test"} <= set(re.findall(r"(?:`|\$ )make (\w+)", README)) <= set(targets)


@pytest.mark.parametrize("line", re.findall(r"^\$ proxykv (.*?)(?:#.*)?$", README, re.MULTILINE))
def test_commands_of_the_readme_parse(line: str, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_the_method_of_the_guide_works(tmp_path: Path) -> None:
    """The complete example is found by its name, and scores."""
    guide = (ROOT / "docs" / "extend.md").read_text("utf-8")
    code = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)[0]
    (tmp_path / "knorm.py").write_text(code)
    script = f"""
import sys, torch
sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]
import knorm
from types import SimpleNamespace as S
keys = torch.randn(1, 2, 7, 4)
prefill = S(cache=S(layers=[S(keys=keys), S(keys=keys)]), prefix_len=2)
scores = knorm.METHOD(None).score(prefill)
assert scores.shape == (2, 2, 5)
norms = keys[0, :, 2:].norm(dim=-1)
assert scores[0].argmax(-1).equal(norms.argmin(-1))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
