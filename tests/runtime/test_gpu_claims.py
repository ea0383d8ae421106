"""GPUs are given to one job at a time, in other processes too. No GPU is needed to test that."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxykv.config import catalog
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.gpu_claims import claim


@pytest.fixture(autouse=True)
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, and those that it starts, see two GPUs and have a lock folder of their own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def holder(count: int, then: str = "sys.stdin.read()") -> subprocess.Popen[str]:
    """Another job: it says what it was given."""
    code = (
        "import os, sys\n"
        "from proxykv.runtime.gpu_claims import claim\n"
        f"with claim({count}):\n"
        "    print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        f"    {then}\n"
    )
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=catalog.ROOT, stdin=pipe, stdout=pipe, text=True
    )


def given(job: subprocess.Popen[str]) -> str:
    assert job.stdout
    return job.stdout.readline().strip()


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_jobs_get_different_gpus_and_the_third_waits(tmp_path: Path) -> None:
    first, second = holder(1), holder(1)
    assert {given(first), given(second)} == {"4", "GPU-7"}
    third = holder(2, then="pass")
    while not is_locked(tmp_path / f"proxykv-gpus-{os.getuid()}" / "machine" / "gate"):
        time.sleep(0.05)
    assert third.stdout and not select.select([third.stdout], [], [], 0)[0], "it waits"
    first.communicate()
    second.communicate()
    assert given(third) == "4,GPU-7"
    assert third.wait() == 0


def test_a_killed_job_gives_its_gpu_back() -> None:
    job = holder(2)
    assert given(job) == "4,GPU-7"
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    with claim(2) as gpus:
        assert gpus == ("4", "GPU-7")


def test_a_job_without_gpus_sees_none() -> None:
    with claim(0) as gpus:
        assert gpus == ()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_asking_for_more_than_there_are_is_a_mistake_of_the_config() -> None:
    with pytest.raises(ConfigError, match=r"asks for 3 GPU\(s\) and may see 2"), claim(3):
        pass


def test_slurm_jobs_do_not_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs whose GPUs are both called 0: SLURM has given them different ones."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with claim(1):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setenv("SLURM_JOB_ID", "2")
        with claim(1) as gpus:
            assert gpus == ("0",)
