"""The wheel: what is in it, and a run in a folder that `proxykv init` wrote, without a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from proxykv.config import catalog
from tests.checkout import copy_project


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = copy_project(tmp_path_factory.mktemp("source"))
    made = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "-w", made, source], check=True)
    return next(made.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands of an environment with our packages, in which the project is this wheel."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # A line of a path file is not searched for path files, so the checkout stays unknown.
    Path(paths["purelib"], "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", paths["purelib"], wheel], check=True)
    return Path(paths["scripts"])


def output(installed: Path, folder: Path, *command: str) -> str:
    """What a command prints in a folder, with the environment's Python."""
    hidden = ("PYTHONPATH", "PROXYKV_CONFIG")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["PATH"] = f"{installed}:{environment['PATH']}"
    python = str(installed / "python")
    done = subprocess.run(
        [python, "-m", *command],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_wheel_is_small_and_claims_one_name(wheel: Path) -> None:
    assert wheel.stat().st_size <= 10 * 2**20
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"proxykv"}


def test_a_wheel_has_every_file_of_the_package_and_of_a_working_directory(wheel: Path) -> None:
    command = ["git", "ls-files", "proxykv", "baselines", "config", "models", "slurm", "workflow"]
    listed = subprocess.run(command, cwd=catalog.ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.splitlines() if (catalog.ROOT / name).is_file()}
    tracked |= {"Snakefile", "config.yaml"}
    places = {
        name if name.startswith("proxykv/") else f"proxykv/starter/{name}" for name in tracked
    }
    assert places - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_an_installed_package_works_in_the_folder_that_init_wrote(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "workflow" / "schemas").mkdir(parents=True)  # of another project
    assert "| `kvzip` " in output(installed, tmp_path, "proxykv", "methods")
    output(installed, tmp_path, "proxykv", "init", "work")
    work = tmp_path / "work"
    rival = (work / "baselines" / "random.py").read_text("utf-8").replace('"random": ', '"dice": ')
    (work / "baselines" / "dice.py").write_text(rival, "utf-8")
    assert "dice" in output(installed, work, "proxykv", "methods")
    assert "ok; run 'tiny'" in output(installed, work, "proxykv", "check", "config.yaml")
    plan = output(installed, work, "snakemake", "--cores", "1", "--dry-run", "--quiet", "rules")
    assert "generate" in plan


def test_init_keeps_what_is_there(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(AssertionError, match="is not an empty folder"):
        output(installed, tmp_path, "proxykv", "init", ".")
