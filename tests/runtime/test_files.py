"""Files appear whole, and other users may read them as far as the umask allows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import other_user
import pandas as pd
import pytest
import torch
from rows_fixture import make_rows
from safetensors.torch import save_file
from valid_config import valid

from proxykv.benchmarks import tiny_language
from proxykv.benchmarks.examples import Example, write_jsonl
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.mapper import tensor_file
from proxykv.mapper.fitted import save_fitted
from proxykv.report.build import build_report
from proxykv.report.plots import draw_figures
from proxykv.report.tabulate import write_tables
from proxykv.runtime import files
from proxykv.runtime.journal import Journal
from proxykv.runtime.lock import Lock
from proxykv.runtime.parquet import write_csv, write_parquet

TABLE = pd.DataFrame({"a": [1, 2]})
TENSORS = {"w": torch.ones(2)}


def library_folder(folder: Path) -> None:
    """A folder written by a library that makes private files, as `convert` receives it."""
    save_file(TENSORS, folder / "model.safetensors")
    files.obey_umask(folder)


def rows_file(folder: Path) -> list[Path]:
    path = folder / "rows.parquet"
    write_parquet(path, make_rows(tasks=("single",), contexts=4))
    files.write_json(folder / "config.json", valid())
    Run(valid()).cards.write(folder)
    return [path]


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda folder: files.write_text(folder / "a.txt", "x"),
    "bytes": lambda folder: files.write_bytes(folder / "a.bin", b"x"),
    "json": lambda folder: files.write_json(folder / "a.json", {}),
    "cards of a run": Run(valid()).cards.write,
    "config of a run": lambda _: Run(valid()).write(),
    "journal": lambda folder: Journal(folder / "j.jsonl").append([{"a": 1}]),
    "rewritten journal": lambda folder: Journal(folder / "j.jsonl").rewrite([{"a": 1}]),
    "lock": lambda folder: Lock(folder / "a.lock").take(),
    "Parquet": lambda folder: write_parquet(folder / "a.parquet", TABLE),
    "CSV": lambda folder: write_csv(folder / "a.csv", TABLE),
    "data set": lambda folder: write_jsonl(folder / "a.jsonl", [Example("a", "t", "text")]),
    "tokenizer": tiny_language.save_tokenizer,
    "tensors": lambda folder: tensor_file.save(folder / "a.safetensors", TENSORS),
    "checkpoint": lambda folder: tensor_file.save_groups(
        folder / "a" / "state", {"m": TENSORS}, {}
    ),
    "fitted": lambda folder: save_fitted(folder / "mapper", TENSORS, {}),
    "folder of a library": library_folder,
    "tables": lambda folder: write_tables(rows_file(folder), Run(valid()).cards, folder / "tables"),
    "figures": lambda folder: draw_figures(rows_file(folder), folder, folder / "f", ["pareto"]),
    "report": lambda folder: build_report(
        rows_file(folder), folder, folder / "report" / "index.html"
    ),
}


@pytest.fixture(params=[0o002, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("writer", WRITERS)
def test_files_obey_the_umask(
    writer: str, umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    WRITERS[writer](tmp_path)
    plt.close("all")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in written}
    assert modes == dict.fromkeys(modes, oct(0o666 & ~umask))


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, "old")
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from proxykv.runtime.files import atomic\n"
        "with atomic(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('new')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=catalog.ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text("utf-8") == '"old"\n'
    files.write_json(path, "newer")
    assert path.read_text("utf-8") == '"newer"\n'


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic(path) as partial:
        partial.write_text("new", "utf-8")
        raise RuntimeError
    assert path.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with files.atomic(path) as first, files.atomic(path) as second:
        first.write_text("first", "utf-8")
        second.write_text("second", "utf-8")
    assert path.read_text("utf-8") == "first", "the last one to end wins"


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_another_user(imports: str, code: str) -> tuple[int, str, str]:
    """Exit status, output and errors of another user's code."""
    process = other_user.start(imports, code)
    out, err = process.communicate()
    return process.returncode, out, err


@other_user.needs_root
def test_another_users_private_config_is_one_line(shared_folder: Path) -> None:
    config = shared_folder / "config.json"
    config.write_text("{}", "utf-8")
    config.chmod(0o600)
    imports = "import sys; import proxykv.runs.watch; from proxykv.cli import main"
    code = f"sys.exit(main(['status', '--config', {str(config)!r}]))"
    status, out, err = as_another_user(imports, code)
    assert (status, out) == (2, "")
    assert err == f"{config}: no permission (Permission denied); see chmod\n"


READS = {
    "tensors": ("from proxykv.mapper.tensor_file import opened", "opened(path).__enter__()"),
    "checkpoint": ("from proxykv.mapper.tensor_file import read_metadata", "read_metadata(path)"),
    "fitted": ("from proxykv.mapper.fitted import load_fitted", "load_fitted(path.parent)"),
    "model": ("from proxykv.model.loading import load_model", "load_model(path.parent)"),
    "Parquet": (
        "from proxykv.runtime.parquet import read_parquet\n"
        "import pandas.io.parquet; pandas.io.parquet.get_engine('auto')",
        "read_parquet(path)",
    ),
}


@other_user.needs_root
def test_private_files_are_neither_missing_nor_damaged(shared_folder: Path) -> None:
    """Safetensors says "no such file" of a file that may not be read."""
    path = shared_folder / "weights.safetensors"
    save_file(TENSORS, path)
    for public in ("config.json", "card.json"):
        (shared_folder / public).write_text('{"model_type": "llama"}', "utf-8")
    path.chmod(0o600)
    code = [f"path = Path({str(path)!r})"]
    for _, read in READS.values():
        code += [f"try: {read}", "except PermissionError as error: print(error.filename)"]
    imports = ["from pathlib import Path", *(imported for imported, _ in READS.values())]
    _, out, err = as_another_user("\n".join(imports), "\n".join(code))
    assert out.split() == [str(path)] * len(READS), err
