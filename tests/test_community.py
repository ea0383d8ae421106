"""Files that other services read: their formats hold, and what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from proxykv.config import catalog

ROOT = catalog.ROOT
SCHEMAS = {
    "vendor.github-workflows": ".github/workflows/*.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/*.yml",
    "vendor.citation-file-format": "CITATION.cff",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ENVIRONMENTS = ["environment.yml", "workflow/envs/proxykv.yaml"]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_have_their_services_format(schema: str) -> None:
    files = [str(path) for path in ROOT.glob(SCHEMAS[schema])]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_workflows_call_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([\w.]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]
    matrix = jobs["pythons"]["strategy"]["matrix"]
    assert set(matrix["target"]) <= set(targets)
    assert f">={matrix['python'][0]}" == PROJECT["requires-python"]
    pythons = [f"Programming Language :: Python :: {python}" for python in matrix["python"]]
    assert pythons == PROJECT["classifiers"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_conda_environments_have_a_tested_python_and_the_pinned_packages(name: str) -> None:
    environment = yaml.safe_load((ROOT / name).read_text("utf-8"))
    assert environment["dependencies"] == ["python=3.11", "pip"]
    script = (ROOT / "workflow" / "envs" / "proxykv.post-deploy.sh").read_text("utf-8")
    assert "--require-hashes --no-deps -r constraints.txt" in script
    assert "-r constraints-torch.txt" in script


def test_the_container_installs_the_pinned_packages() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    assert "FROM python:3.11-" in lines
    assert "--require-hashes --no-deps -r constraints.txt" in lines
    assert "-r constraints-torch.txt" in lines


def test_the_snakefile_needs_the_version_that_the_project_states() -> None:
    stated = re.search(r'^min_version\("(.+)"\)', (ROOT / "Snakefile").read_text("utf-8"), re.M)
    assert stated
    assert f"snakemake>={stated.group(1)}" in PROJECT["dependencies"]


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["version"]


def test_every_preset_is_described() -> None:
    text = (ROOT / "config" / "README.md").read_text("utf-8")
    named = set(re.findall(r"^\| `([\w-]+\.yaml)`", text, re.MULTILINE))
    assert named == {path.name for path in (ROOT / "config").glob("*.yaml")}


def test_the_site_builds_and_shows_the_python_reference(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(tmp_path)]
    subprocess.run(command, cwd=catalog.ROOT, env=environment, check=True)
    page = (tmp_path / "reference" / "python" / "index.html").read_text("utf-8")
    assert "share of the KV pairs to keep" in page
    assert (tmp_path / "how-to" / "compare-methods.ipynb").is_file()
