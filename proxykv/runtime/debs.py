"""Texts in Debian packages: pinned packages are downloaded and read, never installed."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tarfile
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path

from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import obey_umask
from proxykv.runtime.wheels import Pin, file_sha256


def fetch(pin: Pin, folder: Path, sha256: str) -> Path:
    """Download a package with apt-get, unless the folder has it.

    Args:
        pin: the package.
        folder: where packages are kept; it is created.
        sha256: checksum of the package in hex.

    Raises:
        ConfigError: if there is no apt-get here, it has no such package, or the package has another
            SHA-256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # An epoch's colon is written %3a in file names.
    pattern = f"{pin.name}_{pin.version.replace(':', '%3a')}_*.deb"
    package = next(folder.glob(pattern), None) or _download(pin, folder, pattern)
    if (digest := file_sha256(package)) != sha256:
        raise ConfigError(
            f"{pin.name}={pin.version}: package has SHA-256 {digest}, expected {sha256}; "
            f"correct the version or the checksum, or delete {package} to download it again"
        )
    return package


def read_text(package: Path, pattern: str) -> dict[str, str]:
    """Read the texts of a package.

    Args:
        package: the package's file.
        pattern: glob on the names of its files.

    Returns:
        Texts by the names of the files; a `.gz` is unpacked and loses its suffix.
    """
    tar = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True
    ).stdout
    texts = {}
    with tarfile.open(fileobj=BytesIO(tar)) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            file = archive.extractfile(member) if fnmatchcase(name, pattern) else None
            if file is not None:
                data = file.read()
                data = gzip.decompress(data) if name.endswith(".gz") else data
                texts[name.removesuffix(".gz")] = data.decode("utf-8", "replace")
    return texts


def _download(pin: Pin, folder: Path, pattern: str) -> Path:
    package_name = f"{pin.name}={pin.version}"
    if not shutil.which("apt-get"):
        raise ConfigError(f"{package_name}: no apt-get here; put {pattern} into {folder}")
    command = ["apt-get", "download", "--quiet", "--", package_name]
    apt = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    package = next(folder.glob(pattern), None)
    if apt.returncode or package is None:
        lines = [line for line in apt.stderr.splitlines() if line.strip()] or ["no package"]
        raise ConfigError(f"apt-get cannot download {package_name} ({lines[-1].strip()})")
    obey_umask(package)
    return package
