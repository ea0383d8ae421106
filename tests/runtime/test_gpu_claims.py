"""No GPU is held by two jobs of this project. No GPU is needed to test that."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import other_user
import pytest

from proxykv.config import catalog
from proxykv.runtime import gpu_claims
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.gpu_claims import claim, visible

TWO_GPUS = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb-2)
"""
WITH_MIG = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-1)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccc-3)
  MIG 3g.20gb     Device  1: (UUID: MIG-dddd-4)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-2)
"""
SLURM = ("SLURM_JOB_ID", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS")


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that all users share, in place of the machine's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o1777)
        monkeypatch.setattr(gpu_claims, "FOLDERS", (Path(name),))
        yield Path(name)


@pytest.fixture(autouse=True)
def two_gpus(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, and those that it starts, see two GPUs; none tells its UUID."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)


def nvidia_smi(
    folder: Path, monkeypatch: pytest.MonkeyPatch, printed: str, status: int = 0
) -> None:
    """Put a command in front of the machine's, which lists these devices."""
    folder.mkdir(exist_ok=True)
    (folder / "listing").write_text(printed, "utf-8")
    script = folder / "nvidia-smi"
    script.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat {folder}/listing\nexit {status}\n', "utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


IMPORTS = "import os, sys; from pathlib import Path; from proxykv.runtime import gpu_claims"


def job_code(count: int, then: str = "sys.stdin.read()") -> str:
    folders = ", ".join(f"Path({str(folder)!r})" for folder in gpu_claims.FOLDERS)
    return (
        f"gpu_claims.FOLDERS = ({folders},)\n"
        f"with gpu_claims.claim({count}):\n"
        "    print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        f"    {then}\n"
    )


def holder(count: int, then: str = "sys.stdin.read()") -> subprocess.Popen[str]:
    """Another job: it says what it was given."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", f"{IMPORTS}\n{job_code(count, then)}"],
        cwd=catalog.ROOT,
        stdin=pipe,
        stdout=pipe,
        text=True,
    )


def given(job: subprocess.Popen[str]) -> str:
    assert job.stdout
    return job.stdout.readline().strip()


def waits(job: subprocess.Popen[str], seconds: float = 2) -> bool:
    """Whether a job that has started says nothing for a while."""
    assert job.stdout
    return not select.select([job.stdout], [], [], seconds)[0] and job.poll() is None


def test_jobs_get_different_gpus_and_the_third_waits() -> None:
    first, second = holder(1), holder(1)
    assert {given(first), given(second)} == {"4", "GPU-7"}
    third = holder(2, then="pass")
    assert waits(third)
    first.communicate()
    assert waits(third)
    second.communicate()
    assert given(third) == "4,GPU-7"
    assert third.wait() == 0


def test_a_job_that_waits_for_more_takes_nothing_from_others() -> None:
    first = holder(1)
    assert given(first) == "4"
    greedy = holder(2)
    assert waits(greedy)
    second = holder(1)
    assert given(second) == "GPU-7"
    first.communicate()
    second.communicate()
    assert given(greedy) == "4,GPU-7"
    greedy.communicate()


def test_a_killed_job_gives_its_gpu_back() -> None:
    job = holder(2)
    assert given(job) == "4,GPU-7"
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    with claim(2) as gpus:
        assert gpus == ("4", "GPU-7")


def test_a_family_whose_target_is_on_two_gpus_holds_both_until_it_ends() -> None:
    with claim(catalog.families()["qwen-3"]["resources"]["gpu"]) as gpus:
        assert gpus == ("4", "GPU-7")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,GPU-7"  # cuda:0 and cuda:1 of the job
        other = holder(1)
        assert waits(other)
    assert given(other) == "4"
    other.communicate()


def test_a_job_without_gpus_sees_none() -> None:
    with claim(0) as gpus:
        assert gpus == ()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("before", ["1", None])
def test_the_block_changes_nothing_for_what_follows(
    before: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvidia_smi(tmp_path, monkeypatch, TWO_GPUS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if before:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    for count in (0, 1):
        with claim(count):
            pass
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


@pytest.mark.parametrize("setting", [None, "0,0,0", "0,-1,1,2", "GPU-8,,9"])
def test_asking_for_more_than_there_are_is_a_mistake_of_the_config(
    setting: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that is named twice is one."""
    if setting:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
        with pytest.raises(ConfigError, match=r"asks for 2 GPU\(s\) and may see 1"), claim(2):
            pass
    with pytest.raises(ConfigError, match=r"asks for 3 GPU\(s\) and may see"), claim(3):
        pass


@pytest.mark.parametrize(
    ("setting", "ids"),
    [
        ("-1", []),
        ("", []),
        (" ", []),
        ("NoDevFiles", []),
        ("0,-1,1", ["0"]),
        ("0,none,1", ["0"]),
        ("1,1,0", ["1", "0"]),
        ("0,0", ["0"]),
        ("0,", ["0"]),
        (",0", []),
        ("0,\t,1", ["0"]),
        ("1,-1,2", ["1"]),
        ("0x1", []),
        ("GPU-7,GPU-7,GPU-", ["GPU-7"]),
        (" 1 , GPU-8 ", ["1", "GPU-8"]),
        ("MIG-GPU-7/1/0", ["MIG-GPU-7/1/0"]),
        ("MIG-1234", ["MIG-1234"]),
        ("../../etc", []),
        ("00,0,\n007", ["0", "7"]),
        ("1,\u0660,2", ["1"]),  # an Arabic zero
        ("+0", []),
        ("0;1", []),
    ],
)
def test_ids_are_read_as_cuda_reads_them(
    setting: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert [gpu.id for gpu in visible()] == ids


def test_without_a_gpu_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible() == []


def test_a_driver_that_does_not_answer_names_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    nvidia_smi(tmp_path, monkeypatch, "NVIDIA-SMI has failed\n", status=9)
    assert visible() == []


@pytest.mark.parametrize(
    ("listing", "setting", "ids"),
    [
        (TWO_GPUS, None, ["GPU-aaaa-1", "GPU-bbbb-2"]),
        (TWO_GPUS, "1,0", ["GPU-bbbb-2", "GPU-aaaa-1"]),
        (TWO_GPUS, "0,GPU-aaaa-1,GPU-bb", ["GPU-aaaa-1", "GPU-bbbb-2"]),
        (TWO_GPUS, "2,0", []),
        (TWO_GPUS, "01,\u0660", ["GPU-bbbb-2"]),
        (TWO_GPUS, "GPU-cc,0", []),
        (TWO_GPUS, "GPU-,0", []),
        (WITH_MIG, None, ["MIG-cccc-3", "MIG-dddd-4", "GPU-bbbb-2"]),
        (WITH_MIG, "0", ["MIG-cccc-3"]),
        (WITH_MIG, "GPU-aaaa-1", ["MIG-cccc-3"]),
        (WITH_MIG, "MIG-dd,1", ["MIG-dddd-4", "GPU-bbbb-2"]),
        (WITH_MIG, "MIG-GPU-aaaa-1/1/0", ["MIG-GPU-aaaa-1/1/0"]),
    ],
)
def test_the_driver_resolves_the_id_of_a_gpu(
    listing: str,
    setting: str | None,
    ids: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    nvidia_smi(tmp_path, monkeypatch, listing)
    if setting is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert [gpu.id for gpu in visible()] == ids


def test_one_gpu_by_two_names_is_one_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi(tmp_path, monkeypatch, TWO_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with claim(1) as gpus:
        assert gpus == ("GPU-bbbb-2",)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bbbb-2"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb-2")
        other = holder(1)
        assert waits(other)
    assert given(other) == "GPU-bbbb-2"
    other.communicate()


def test_a_slurm_job_and_a_plain_job_do_not_share_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvidia_smi(tmp_path, monkeypatch, TWO_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    plain = holder(1)
    assert given(plain) == "GPU-aaaa-1"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    slurm = holder(1)
    assert waits(slurm)
    plain.communicate()
    assert given(slurm) == "GPU-aaaa-1"
    slurm.communicate()


def test_slurm_jobs_do_not_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both GPUs are called 0 in their jobs; SLURM tells that they are different ones."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_GPUS", "2")
    with claim(1):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setenv("SLURM_JOB_GPUS", "3")
        with claim(1) as gpus:
            assert gpus == ("0",)


@other_user.needs_root
def test_two_users_do_not_share_a_gpu() -> None:
    other_job = other_user.start(IMPORTS, f"os.umask(0o077)\n{job_code(1)}")
    assert given(other_job) == "4"
    waiting = holder(2)
    assert waits(waiting)
    one = holder(1)
    assert given(one) == "GPU-7"
    one.communicate()
    _, err = other_job.communicate()
    assert other_job.returncode == 0, err
    assert given(waiting) == "4,GPU-7"
    again = other_user.start(IMPORTS, job_code(1))
    assert waits(again), "it may open the locks that root made"
    waiting.communicate()
    assert given(again) == "4"
    again.communicate()


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o1775])
def test_a_folder_that_others_could_change_is_not_used(mode: int, locks: Path) -> None:
    locks.chmod(mode)
    with pytest.raises(ConfigError, match="no place for locks"), claim(1):
        pass


@other_user.needs_root
def test_a_folder_of_another_users_is_not_used(locks: Path) -> None:
    os.chown(locks, other_user.NOBODY, -1)
    with pytest.raises(ConfigError, match="no place for locks"), claim(1):
        pass


def test_the_next_safe_folder_is_used(
    locks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(locks)
    folders = (tmp_path / "nowhere", tmp_path / "link", tmp_path, locks)
    monkeypatch.setattr(gpu_claims, "FOLDERS", folders)
    with claim(1):
        assert [path.name for path in locks.iterdir() if "4" in path.name] == ["proxykv-gpu-4.lock"]
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("lock", ["proxykv-gpus.lock", "proxykv-gpu-4.lock"])
@pytest.mark.parametrize("trap", ["link", "hard link", "folder", "pipe"])
def test_what_others_put_in_the_place_of_a_lock_is_refused(
    lock: str, trap: str, locks: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", "utf-8")
    match trap:
        case "link":
            (locks / lock).symlink_to(victim)
        case "hard link":
            os.link(victim, locks / lock)
        case "folder":
            (locks / lock).mkdir()
        case "pipe":
            os.mkfifo(locks / lock)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"{lock}: no lock of this project's"), claim(1):
        pass
    assert time.monotonic() - began < 5
    assert victim.read_text("utf-8") == "precious"


def test_locks_are_for_all_users_whatever_the_umask(locks: Path) -> None:
    mask = os.umask(0o077)
    try:
        with claim(2):
            modes = {oct(path.stat().st_mode & 0o777) for path in locks.iterdir()}
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(mask)
    assert modes == {oct(0o666)}


def test_any_id_can_be_locked(monkeypatch: pytest.MonkeyPatch, locks: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-7/1/0,MIG-GPU-7/2/0")
    with claim(1) as gpus:
        assert gpus == ("MIG-GPU-7/1/0",)
    assert (locks / "proxykv-gpu-MIG-GPU-7%2F1%2F0.lock").is_file()
