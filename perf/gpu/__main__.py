"""Speed on this machine's GPU, compared with what the card can do: `perf/gpu.sh --help`."""

from __future__ import annotations

import argparse
import platform
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from perf.gpu.runner import SECTIONS, Done, journal, log_of, run
from perf.gpu.table import document, text
from proxykv.runtime import files

PACKAGES = ("torch", "triton", "transformers")


def main() -> None:
    """Run the sections; write table and document after each of them, and print the table.

    The exit code is 1 if a section failed; one that ran out of time did not.
    """
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    journal(options.out).rewrite([])
    log_of(options.out).write_bytes(b"")
    about = {
        "versions": {"Python": platform.python_version(), **_versions()},
        "command": sys.argv,
        "miniature": options.miniature,
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    done: list[Done] = []
    try:
        limit = 60 * options.minutes
        for section in run(options.sections, options.miniature, options.out, limit):
            done.append(section)
            _write(options.out, about, done)
            print(f"{section.section}: {section.seconds:.0f} s {section.trouble}", flush=True)
    finally:
        print(_write(options.out, about, done))
    if failed := [section.section for section in done if section.failed]:
        sys.exit(f"failed: {', '.join(failed)}; see {log_of(options.out)}")


def _write(out: Path, about: dict[str, Any], done: list[Done]) -> str:
    """Write `table.md` and `results.json`; return the table."""
    found = document(about, journal(out).read(), done)
    files.write_json(out / "results.json", found)
    table = "\n".join(text(found)) + "\n"
    files.write_text(out / "table.md", table)
    return table


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="perf/gpu.sh", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder of the table")
    parser.add_argument("--minutes", type=float, default=7.8, help="most minutes of all sections")
    parser.add_argument("--miniature", action="store_true", help="tiny cases, for any machine")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
