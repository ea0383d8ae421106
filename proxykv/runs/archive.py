"""A run as one file for others: an RO-Crate (https://w3id.org/ro/crate) with checksums."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from rocrate.rocrate import ROCrate

from proxykv.config import catalog
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import atomic, require_inside

LEFT_OUT = ("*.lock", "*.journal.jsonl", "logs/**/*")
"""Files that say nothing about the results: of running jobs, and of what Parquet files hold."""

MANIFEST = "manifest-sha256.txt"
LICENSE = "https://www.apache.org/licenses/LICENSE-2.0"


def archive(run: Path, target: Path) -> int:
    """Write a run's config, methods, rows, predictions, tables, figures, mappers and report.

    `sha256sum -c manifest-sha256.txt` checks the unpacked files.

    Args:
        run: results/<run>.
        target: the archive to write, `*.zip`.

    Returns:
        Number of files that the manifest lists.

    Raises:
        ConfigError: if the folder holds no finished run, a link out of it or a name that cannot be
            printed, or the archive is no new `*.zip`.
    """
    if not (run / "report" / "index.html").is_file():
        raise ConfigError(f"{run}: no finished run (it has no report/index.html)")
    if target.suffix != ".zip" or target.exists():
        raise ConfigError(f"{target}: give the name of a new file that ends with .zip")
    files = {**_files(run), "CITATION.cff": catalog.ROOT / "CITATION.cff"}
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    crate = ROCrate()
    crate.name = f"ProxyKV run {run.resolve().name}"
    crate.description = "A benchmark of KV-cache pruning; report/index.html shows the results."
    crate.license = LICENSE
    for name, path in files.items():
        crate.add_file(path, name, properties={"name": name, "sha256": sums[name]})
    lines = "".join(f"{checksum}  {name}\n" for name, checksum in sums.items())
    crate.add_file(io.StringIO(lines), MANIFEST)
    with atomic(target) as partial:
        crate.write_zip(partial)
    return len(files)


def _files(run: Path) -> dict[str, Path]:
    """The files of a run that others need, by their names in it."""
    left_out = {path for pattern in LEFT_OUT for path in run.rglob(pattern)}
    found = [path for path in sorted(run.rglob("*")) if path.is_file() and path not in left_out]
    for path in found:
        require_inside(path, run)
        if not path.name.isprintable():
            raise ConfigError(f"{str(path)!a}: a line of the manifest cannot hold this name")
    return {path.relative_to(run).as_posix(): path for path in found}
