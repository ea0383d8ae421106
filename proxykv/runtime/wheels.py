"""Data in Python packages: pinned wheels are downloaded and read, never installed."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import obey_umask

CHUNK = 1 << 22


@dataclass(frozen=True)
class Pin:
    """One package at one exact version, of PyPI or of Debian.

    Raises:
        ConfigError: if a package manager could read the name or the version as something else.
    """

    name: str
    version: str

    def __post_init__(self) -> None:
        """Check both texts."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", self.name):
            raise ConfigError(f"package {self.name!r}: not the name of a package")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.!+:~_-]*", self.version):
            raise ConfigError(f"package {self.name}: {self.version!r} is not an exact version")


def pins(packages: Mapping[str, Any] | Sequence[Mapping[str, str]]) -> list[Pin]:
    """Packages in the order in which their contents belong together.

    Args:
        packages: a list of `{name, version}` or, for numbered slices, `{prefix, count, version}`,
            which means `<prefix>1` … `<prefix><count>`.

    Raises:
        ConfigError: if a name or a version is none.
    """
    if isinstance(packages, Mapping):
        numbers = range(1, packages["count"] + 1)
        return [Pin(f"{packages['prefix']}{i}", packages["version"]) for i in numbers]
    return [Pin(package["name"], package["version"]) for package in packages]


def fetch(pin: Pin, folder: Path, sha256: str | None = None) -> Path:
    """The wheel of `pin` in `folder`, downloaded by pip unless it is there already.

    A wheel appears whole or not at all, so a killed download resumes at the next one.

    Args:
        pin: the package.
        folder: where wheels are kept; it is created.
        sha256: checksum of the wheel in hex; not checked where None.

    Raises:
        ConfigError: if pip cannot download it, or its SHA-256 is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A wheel's file name starts with the normalised name and version (PEP 427).
    stem = f"{pin.name.replace('-', '_').replace('.', '_').lower()}-{pin.version}-"
    found = [wheel for wheel in folder.glob("*.whl") if wheel.name.lower().startswith(stem)]
    wheel = found[0] if found else _download(pin, folder)
    if sha256 is not None and (digest := file_sha256(wheel)) != sha256:
        raise ConfigError(
            f"{pin.name}=={pin.version}: wheel has SHA-256 {digest}, expected {sha256}; "
            f"correct the version or the checksum, or delete {wheel} to download it again"
        )
    return wheel


def _download(pin: Pin, folder: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", scratch, "--", f"{pin.name}=={pin.version}"]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if pip.returncode or not wheels:
            lines = [line for line in pip.stderr.splitlines() if line.strip()] or ["no wheel"]
            raise ConfigError(
                f"pip cannot download {pin.name}=={pin.version} ({lines[-1].strip()}); "
                "check the pinned version and the package index"
            )
        obey_umask(wheels[0])
        return wheels[0].rename(folder / wheels[0].name)


def members(wheel: Path, pattern: str) -> list[str]:
    """List the files in a wheel that match a glob, sorted by name.

    Args:
        wheel: the wheel's file.
        pattern: glob on the paths inside the wheel.
    """
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if fnmatchcase(name, pattern))


def concatenate(wheels: Sequence[Path], pattern: str, out: Path) -> tuple[int, str]:
    """Write the files that match `pattern` one after another to `out`: (bytes, SHA-256).

    Args:
        wheels: in the order of their contents; several files of one wheel are sorted by name.
        pattern: glob of the files inside each wheel.
        out: the file to write.

    Raises:
        ConfigError: if a wheel holds no such file.
    """
    digest, size = hashlib.sha256(), 0
    with out.open("wb") as target:
        for wheel in wheels:
            names = members(wheel, pattern)
            if not names:
                raise ConfigError(f"{wheel.name} holds no file {pattern!r}; correct `member`")
            with zipfile.ZipFile(wheel) as archive:
                for name in names:
                    with archive.open(name) as source:
                        while block := source.read(CHUNK):
                            digest.update(block)
                            size += target.write(block)
    return size, digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def read_text(wheel: Path, pattern: str) -> dict[str, str]:
    """Read the texts in a wheel that match a glob.

    Args:
        wheel: the wheel's file.
        pattern: glob on the paths inside the wheel.

    Returns:
        Texts by their paths in the wheel; bytes that are not UTF-8 are replaced.
    """
    with zipfile.ZipFile(wheel) as archive:
        return {n: archive.read(n).decode("utf-8", "replace") for n in members(wheel, pattern)}


def remove(folder: Path) -> None:
    """Remove a folder of downloads, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
