"""GPUs of a job: each GPU is held by one job at a time, whichever user or launcher started it.

A claim is a lock on a file that belongs to the GPU. The files lie in a folder that all users of the
machine share and none of them owns, so that nobody can replace another user's file.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from urllib.parse import quote

from proxykv.runtime.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
FOLDERS = (Path("/run/lock"), Path("/dev/shm"), Path("/tmp"))
"""The first of these folders that is safe to share holds the locks."""
POLL = 0.5
"""Seconds between two attempts to lock GPUs."""

ID = re.compile(r"[0-9]+|(GPU|MIG)-\S+")
LISTED = re.compile(r"\(UUID: (?P<uuid>[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """A device that CUDA can use: its name in CUDA_VISIBLE_DEVICES, and the name of its lock."""

    id: str
    key: str


@contextmanager
def claim(count: int) -> Iterator[tuple[str, ...]]:
    """Give this process GPUs that no other job of this project holds on this machine.

    Waits until enough of the visible GPUs are free. They are free again when the block ends or the
    process dies. Must run before anything initialises CUDA.

    Args:
        count: number of GPUs; 0 hides all.

    Yields:
        The ids of the GPUs, which CUDA_VISIBLE_DEVICES holds during the block.

    Raises:
        ConfigError: if fewer GPUs are visible, or the locks have no safe place.
    """
    gpus = visible() if count else []
    if len(gpus) < count:
        raise ConfigError(
            f"a job asks for {count} GPU(s) and may see {len(gpus)}; correct `resources` in its "
            f"family's file, or {VISIBLE}"
        )
    with ExitStack() as held:
        taken = _wait(gpus, count, _folder(), held) if count else ()
        before = os.environ.get(VISIBLE)
        os.environ[VISIBLE] = ",".join(taken)
        try:
            yield taken
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before


def visible() -> list[Gpu]:
    """GPUs that this process may see, each once, in CUDA's order.

    As CUDA does, ids in CUDA_VISIBLE_DEVICES are read up to the first one that names no device:
    `-1` hides all that follow.
    """
    devices = _devices()
    setting = os.environ.get(VISIBLE)
    if setting is None:
        found = [gpu for instances in devices.values() for gpu in instances]
    else:
        names = enumerate(_plain(part.strip()) for part in setting.split(","))
        each = (_listed(n, devices) if devices else _unlisted(n, i) for i, n in names)
        found = [gpu for gpu in takewhile(lambda gpu: gpu is not None, each) if gpu]
    return list(dict.fromkeys(found))


def _plain(name: str) -> str:
    """A device's id; an index without leading zeros, so that it has one name."""
    return str(int(name)) if name.isdecimal() and ID.fullmatch(name) else name


def _devices() -> dict[str, list[Gpu]]:
    """UUID of each GPU: what CUDA can use of it, which is the GPU itself or its MIG instances."""
    if not shutil.which("nvidia-smi"):
        return {}
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    instances: dict[str, list[str]] = {}
    for line in listed.stdout.splitlines() if listed.returncode == 0 else ():
        if not (found := LISTED.search(line)):
            continue
        if line.startswith("GPU"):
            instances[found["uuid"]] = []
        else:
            instances[next(reversed(instances))].append(found["uuid"])
    return {gpu: [Gpu(u, u) for u in uuids or [gpu]] for gpu, uuids in instances.items()}


def _listed(name: str, devices: Mapping[str, Sequence[Gpu]]) -> Gpu | None:
    """The device that CUDA understands by an index, a UUID or the beginning of a UUID.

    Of a GPU with MIG instances, CUDA uses the first one.
    """
    if not ID.fullmatch(name):
        return None
    if name.isdecimal():
        return list(devices.values())[int(name)][0] if int(name) < len(devices) else None
    known = {uuid: instances[0] for uuid, instances in devices.items()}
    known |= {gpu.key: gpu for instances in devices.values() for gpu in instances}
    fitting = [gpu for uuid, gpu in known.items() if uuid.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    # Older drivers name MIG instances MIG-GPU-<uuid>/<instance>/<compute instance>.
    return Gpu(name, name) if name.startswith("MIG-GPU-") else None


def _unlisted(name: str, position: int) -> Gpu | None:
    """A device whose UUID nvidia-smi does not show.

    In a SLURM job, ids may count only the job's own GPUs; SLURM's variables name them.
    """
    if not ID.fullmatch(name):
        return None
    slurm = os.environ.get("SLURM_STEP_GPUS") or os.environ.get("SLURM_JOB_GPUS") or ""
    numbers = slurm.split(",")
    numbered = (
        name.isdecimal() and position < len(numbers) and numbers[position].strip().isdecimal()
    )
    return Gpu(name, numbers[position].strip() if numbered else name)


def _folder() -> Path:
    """A folder in which every user may make files, but none may replace another user's."""
    for folder in FOLDERS:
        try:
            found = folder.lstat()
        except OSError:
            continue
        shared = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o1777
        if shared and found.st_uid in (0, os.getuid()):
            return folder
    raise ConfigError(
        f"no place for locks on GPUs: none of {', '.join(map(str, FOLDERS))} is a folder of root's "
        "with mode 1777"
    )


def _wait(gpus: Sequence[Gpu], count: int, folder: Path, held: ExitStack) -> tuple[str, ...]:
    """Lock `count` of the GPUs until `held` closes; a job that waits holds none."""
    while True:
        # One job tries at a time: two jobs cannot take half of what the other one needs.
        with _opened(folder / "proxykv-gpus.lock") as gate, ExitStack() as attempt:
            fcntl.flock(gate, fcntl.LOCK_EX)
            free = (gpu.id for gpu in gpus if _locked(gpu, folder, attempt))
            taken = tuple(islice(free, count))
            if len(taken) == count:
                held.push(attempt.pop_all())
                return taken
        time.sleep(POLL)


def _locked(gpu: Gpu, folder: Path, held: ExitStack) -> bool:
    """Lock a GPU until `held` closes, if it is free."""
    with ExitStack() as attempt:
        name = f"proxykv-gpu-{quote(gpu.key, safe='')}.lock"
        file = attempt.enter_context(_opened(folder / name))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        held.push(attempt.pop_all())
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a lock file that all users share; it is made if need be.

    Raises:
        ConfigError: if something else is there, such as a link.
    """
    mask = os.umask(0)
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | _creation(path), 0o666)
    except FileExistsError:  # another job was faster
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            f"{path}: no lock of this project's ({error.strerror}); ask its owner to remove it"
        ) from error
    finally:
        os.umask(mask)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise ConfigError(f"{path}: no lock of this project's; ask its owner to remove it")
        yield file
    finally:
        os.close(file)


def _creation(path: Path) -> int:
    """Flags to make the file; none if it is there.

    Linux may refuse O_CREAT for a file of another user's in such a folder (fs.protected_regular).
    """
    return 0 if os.path.lexists(path) else os.O_CREAT | os.O_EXCL
