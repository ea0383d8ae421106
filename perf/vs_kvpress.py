"""Time and memory compared with kvpress: the same model, contexts, dtype and threads, in turn.

    python perf/vs_kvpress.py models/tiny/target --lengths 512 1024 --out tiny.json

Importing kvpress wraps every attention function of transformers, so each side runs in a separate
process; they measure in turn, never at the same time. Prints a table of medians (minimum to
maximum) and of the ratios kvpress / proxykv of each round; writes all measurements to `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from proxykv.runtime import files

HERE = Path(__file__).parent
SIDES = ("proxykv", "kvpress")
MEASURES = ("kvzip", "snapkv", "full", "sweep")
ROWS = {
    "prefill": "prefill",
    "scoring": "KVzip scoring pass",
    "bare": "bare forward of the replays",
    "snapkv": "prefill with SnapKV",
    "decode": "decoding 24 tokens at ρ = 0.3",
    "full": "full cache: prefill, 24 tokens",
    "sweep": "sweep: 9 retentions, 24 tokens each",
    "sweep_prefill": "… of which prefill",
    "sweep_scoring": "… of which scoring",
    "sweep_decode": "… of which decoding",
}


class Process:
    """One side, which waits for requests."""

    def __init__(self, side: str, options: argparse.Namespace) -> None:
        """Start a side and wait until it is ready."""
        script = HERE / f"side_{side}.py"
        arguments = [str(options.model), options.dtype, str(options.threads)]
        env = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "TQDM_DISABLE": "1"}
        env["PYTHONPATH"] = str(HERE.parent)
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self._read()

    def ask(self, measure: str, length: int) -> dict[str, Any]:
        """Measure a context on this side; return the result (see `side.serve`).

        Args:
            measure: name of the measurement.
            length: tokens of the context.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"measure": measure, "length": length}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a side ended; its error is printed above")
        return json.loads(line)


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure all lengths; the sides take turns in going first.

    Yields:
        The result of one measurement of one side.
    """
    processes = {side: Process(side, options) for side in SIDES}
    for length in options.lengths:
        for process in processes.values():  # warms up and is dropped
            process.ask("full", length)
        for turn in range(options.repeats):
            for name in options.measures:
                for side in SIDES if turn % 2 else reversed(SIDES):
                    result = processes[side].ask(name, length)
                    yield {"length": length, "measure": name, "side": side, "turn": turn, **result}
    for process in processes.values():
        process.close()


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format values as median (minimum–maximum).

    Args:
        values: the measured values.
        digits: digits after the point.
    """
    if not values:
        return "–"
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def table(rounds: list[dict[str, Any]]) -> Iterable[str]:
    """Format all results as lines of a Markdown table."""
    yield "| context | measurement | proxykv, s | kvpress, s | kvpress / proxykv |"
    yield "|---|---|---|---|---|"
    for length in sorted({r["length"] for r in rounds}):
        at = [r for r in rounds if r["length"] == length]
        for key, title in ROWS.items():
            proxykv, kvpress = (seconds_by_turn(at, side, key) for side in SIDES)
            if proxykv or kvpress:
                turns = proxykv.keys() & kvpress.keys()
                ratios = [kvpress[turn] / proxykv[turn] for turn in turns]
                cells = (spread(list(proxykv.values()), 3), spread(list(kvpress.values()), 3))
                yield f"| {length} | {title} | {cells[0]} | {cells[1]} | {spread(ratios)} |"
        for name in MEASURES:
            peaks = [
                [r["peak_bytes"] / 2**20 for r in at if (r["side"], r["measure"]) == (side, name)]
                for side in SIDES
            ]
            if all(peaks):
                ratios = [b / a for a, b in zip(*peaks, strict=True)]
                cells = [spread(peak, 0) for peak in peaks]
                title = f"peak resident memory, {name}, MiB"
                yield f"| {length} | {title} | {cells[0]} | {cells[1]} | {spread(ratios)} |"
        yield from notes(at)


def seconds_by_turn(rounds: list[dict[str, Any]], side: str, key: str) -> dict[int, float]:
    """Seconds of a measurement of one side, by turn. Measurements that failed are left out.

    Args:
        rounds: results of all measurements.
        side: name of the side.
        key: name of the measurement.
    """
    return {
        r["turn"]: r["seconds"][key]
        for r in rounds
        if r["side"] == side and key in r["seconds"] and "error" not in r
    }


def notes(at: list[dict[str, Any]]) -> Iterable[str]:
    """Format the ratios within this package, and what failed, as lines of the table."""
    length = at[0]["length"]
    times = [r["seconds"] for r in at if r["side"] == "proxykv"]
    ratios = [s["scoring"] / s["bare"] for s in times if "bare" in s]
    if ratios:
        yield f"| {length} | proxykv: scoring / bare forward | {spread(ratios)} | | |"
    peaks = {
        name: [
            r["peak_bytes"] for r in at if r["side"] == "proxykv" and r["measure"] == name
        ]
        for name in ("full", "sweep")
    }  # fmt: skip
    if all(peaks.values()):
        ratios = [s / f for f, s in zip(peaks["full"], peaks["sweep"], strict=True)]
        yield f"| {length} | proxykv: peak memory, sweep / full | {spread(ratios)} | | |"
    for side in SIDES:
        for error in sorted({r["error"] for r in at if r["side"] == side and "error" in r}):
            yield f"| {length} | {side} failed: {error.splitlines()[0]} | | | |"


def main() -> None:
    """Measure, write a JSON file and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("model", type=Path, help="a transformers model folder")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="rounds after a warm-up")
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--out", type=Path, required=True, help="JSON file with all measurements")
    options = parser.parse_args()
    setting = {
        "model": str(options.model),
        "dtype": options.dtype,
        "threads": options.threads,
        "processor": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "kvpress")},
        "command": sys.argv,
    }
    rounds: list[dict[str, Any]] = []
    for result in measure(options):
        rounds.append(result)
        print(json.dumps(result), file=sys.stderr)
        # Written each time, so that a killed run loses nothing.
        files.write_json(options.out, {**setting, "rounds": rounds})
    print("\n".join(table(rounds)))


if __name__ == "__main__":
    main()
