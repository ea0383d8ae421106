"""The command that compares scores with the benchmarks' authors' code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.parity.authors.__main__ import COMPARISONS, main

CHECKOUTS = {
    "longbench": "LongBench",
    "ruler": "RULER",
    "ruler-texts": "RULER",
    "scbench": "MInference",
}
METRICS = """
def every(predictions, references):
    (prediction,), (wanted,) = predictions, references
    found = [reference.lower() in prediction.lower() for reference in wanted]
    return round(100 * sum(found) / len(found), 2)

def some(predictions, references):
    (prediction,), (wanted,) = predictions, references
    return 100.0 * any(reference.lower() in prediction.lower() for reference in wanted)

NAMES = ["niah", "variable_tracking", "common_words_extraction", "freq_words_extraction"]
TASKS = {name: {"metric_fn": every} for name in NAMES} | {"qa": {"metric_fn": some}}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Files of RULER's layout, with metrics written here."""
    folder = tmp_path / "scripts" / "eval" / "synthetic"
    folder.mkdir(parents=True)
    (folder / "constants.py").write_text(METRICS, "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (("", ""), []),
        (("[reference.lower()", "[reference"), ["vt", "fwe", "niah_single_1"]),
        (("any(", "all("), ["qa_1", "qa_2"]),
    ],
)
def test_a_metric_that_differs_is_named(
    checkout: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    differing: list[str],
) -> None:
    (path,) = checkout.rglob("constants.py")
    path.write_text(METRICS.replace(*change), "utf-8")
    assert main(["ruler", str(checkout), "--count", "40"]) == bool(differing)
    lines = capsys.readouterr().out.splitlines()
    found = {
        line.split()[0] for line in lines if line.endswith(" different") and ", 0 " not in line
    }
    assert set(differing) <= found
    assert ("qa_1" in found) == ("qa_1" in differing)
    assert "520 compared" in lines[-1]  # 13 tasks


def test_a_folder_that_is_no_checkout_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such folder; give a checkout"):
        main(["ruler", str(tmp_path / "nothing")])


@pytest.mark.skipif(
    "PROXYKV_AUTHORS" not in os.environ,
    reason="PROXYKV_AUTHORS names no folder with the authors' repositories",
)
@pytest.mark.parametrize("benchmark", COMPARISONS)
def test_scores_and_prompts_are_the_authors(benchmark: str) -> None:
    folder = Path(os.environ["PROXYKV_AUTHORS"]) / CHECKOUTS[benchmark]
    count = 2 if benchmark == "ruler-texts" else 40
    assert main([benchmark, str(folder), "--count", str(count)]) == 0
