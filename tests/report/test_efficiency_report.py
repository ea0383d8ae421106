"""Tables and figures of time and memory, from made-up measurements."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from measurements_fixture import OTHERS, make_measurements, seconds, write_measurements
from rows_fixture import cards_of, make_rows, write_run

from proxykv.report import build_report, plots
from proxykv.report.efficiency import PREFILL, cases, hardware, read_measurements, speedups
from proxykv.report.tabulate import write_efficiency

FIGURES = ("latency", "latency_real", "time_shares", "memory_timeline", "pareto_total")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return make_rows(
        methods=("kvzip", "proxykv", "snapkv"), retentions=(0.1, 0.3), contexts=3,
        tasks=("single", "vt"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("results") / "demo"
    write_run(run, rows)
    write_measurements(run, make_measurements())
    return run


def drawn(name: str, rows: pd.DataFrame, run: Path) -> Figure:
    figure = plots.draw(name, rows, cards_of(rows), run)
    assert figure is not None
    return figure


def titles(figure: Figure) -> list[str]:
    return [axis.get_title("left") for axis in figure.axes if axis.get_visible()]


def test_medians_are_of_the_timed_repeats(run_dir: Path) -> None:
    table = cases(read_measurements(run_dir)).set_index(["method", "tokens", "retention"])
    for method in OTHERS:
        at = table.loc[(method, 200, 1.0 if method == "full" else 0.3)]
        times = [seconds(method, 200, repeat) for repeat in range(1, 6)]
        assert at.cache_seconds == pytest.approx(times[2])
        assert (at.cache_seconds_low, at.cache_seconds_high) == (min(times), max(times))
        assert times[0] <= at.cache_seconds_ci_low <= at.cache_seconds_ci_high <= times[-1]
        assert at.target_peak_bytes == 200 * 2**30 and at.repeats == 5
    failed = table.loc[("kvzip", 400, 0.3)]
    assert failed.status == "out of memory" and pd.isna(failed.cache_seconds)


def test_speedups_name_their_hardware(rows: pd.DataFrame, run_dir: Path) -> None:
    table = speedups(read_measurements(run_dir), cards_of(rows))
    found = table.set_index(["method", "against", "retention"])
    proxykv = found.loc[("proxykv", "kvzip", 0.3)]
    # KVzip ran out of memory at 400 tokens, which is not compared.
    assert [proxykv[name] for name in ("mean", "median", "best")] == [pytest.approx(3 / 1.5)] * 3
    assert (proxykv.hardware, proxykv.reference_hardware) == ("2 × H100", "1 × H100")
    assert proxykv.lengths == 2
    assert found.loc[("kvzip", PREFILL, 0.1)]["mean"] == pytest.approx(1 / 3)
    assert ("full", PREFILL, 1.0) not in found.index


def test_lengths_that_differ_in_their_speedup_and_a_repeat_that_failed(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    measured = make_measurements(failed=("none", 0)).assign(batch=4)
    lengths = sorted(measured.tokens.unique())
    slower = measured.tokens.map(dict(zip(lengths, (1.0, 5.0, 3.5), strict=True)))
    times = ["cache_seconds", "request_seconds"]
    measured.loc[measured.method == "kvzip", times] = measured[times].mul(slower, axis=0)
    # Requests at another retention are no reference.
    measured.loc[(measured.method == "kvzip") & (measured.retention == 0.1), times] *= 9
    lost = (measured.repeat == 5) & (measured.tokens == lengths[0])
    measured.loc[lost, "status"] = "out of memory"
    measured.loc[lost, times] = float("nan")
    write_measurements(tmp_path, measured)
    found = speedups(read_measurements(tmp_path), cards_of(rows))
    line = found.set_index(["method", "against", "retention"]).loc[("proxykv", "kvzip", 0.3)]
    # Alike, KVzip would take twice as long at every length.
    assert [line["mean"], line["median"], line["best"]] == [
        pytest.approx(2 * factor) for factor in ((1 + 5 + 3.5) / 3, 3.5, 5)
    ]
    assert line.best_tokens == lengths[1]
    table = cases(read_measurements(tmp_path))
    assert set(table.repeats[table.tokens == lengths[0]]) == {4}
    assert (table.contexts_per_second * table.request_seconds).tolist() == pytest.approx(
        [4] * len(table)
    )


SHARED = {"device": "cuda: H100 x 2"}
"""Two devices share the target."""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "CPU (Xeon), 8 threads"),
        ({"schedule": "sequential"}, "CPU (Xeon), 4 threads"),
        ({"spans": [{"phase": "scoring"}]}, "CPU (Xeon), 4 threads"),
        ({"schedule": "sequential", "threads": 1}, "CPU (Xeon), 1 thread"),
        ({"device": "cuda: H100"}, "1 × H100"),
        ({"device": "cuda: H100", "proxy_device": "cuda: A10", "devices": 2}, "H100 + A10"),
        ({**SHARED, "proxy_device": "cuda: H100", "devices": 2}, "2 × H100"),
        ({**SHARED, "proxy_device": "cuda: H100", "devices": 3}, "3 × H100"),
        ({**SHARED, "proxy_device": "cuda: A10", "devices": 3}, "2 × H100 + A10"),
        ({**SHARED, "spans": [], "proxy_device": "cuda: A10", "devices": 3}, "2 × H100"),
    ],
)
def test_hardware_is_what_was_at_work(changes: dict[str, Any], said: str) -> None:
    row = {"device": "cpu: Xeon", "proxy_device": "cpu: Xeon", "devices": 1, "threads": 4}
    row |= {"schedule": "parallel", "spans": [{"phase": "proxy_scoring"}]}
    assert hardware(row | changes) == said


def test_tables_are_written(rows: pd.DataFrame, run_dir: Path, tmp_path: Path) -> None:
    written = write_efficiency(run_dir, cards_of(rows))
    names = [f"{name}.{suffix}" for name in ("efficiency", "speedups") for suffix in ("csv", "tex")]
    assert [path.name for path in written] == names
    assert len(pd.read_csv(written[0])) == 3 * 7
    assert write_efficiency(tmp_path, cards_of(rows)) == []


def test_lines_of_latency_and_memory(rows: pd.DataFrame, run_dir: Path) -> None:
    figure = drawn("latency", rows, run_dir)
    start = "tiny · latency, ρ 0.3, two devices: "
    assert titles(figure) == [start + "latency", start + "peak memory"]
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    expected = [seconds("proxykv", tokens, 3) for tokens in (100, 200, 400)]
    assert lines["ProxyKV, parallel"] == [pytest.approx(y) for y in expected]
    assert len(lines["KVzip"]) == 2
    assert [line.get_marker() for line in figure.axes[0].lines].count("x") == 1


def test_one_device_with_real_inputs(rows: pd.DataFrame, run_dir: Path, tmp_path: Path) -> None:
    assert plots.draw("latency_real", rows, cards_of(rows), run_dir) is None
    write_measurements(tmp_path, make_measurements(devices=1))
    figure = drawn("latency_real", rows, tmp_path)
    assert titles(figure) == ["tiny · latency, ρ 0.3: tiny"]
    assert [len(line.get_ydata()) for line in figure.axes[0].lines if line.get_marker() != "x"] == [
        3, 3, 2, 3,
    ]  # fmt: skip


def test_shares_of_the_phases_add_up(rows: pd.DataFrame, run_dir: Path) -> None:
    figure = drawn("time_shares", rows, run_dir)
    assert titles(figure) == ["tiny · latency, ρ 0.3: parallel"]
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert sum(heights) == pytest.approx(3)
    assert [text.get_text() for text in figure.axes[0].texts] == ["3.3 %"] * 3


def test_memory_of_both_devices(rows: pd.DataFrame, run_dir: Path) -> None:
    figure = drawn("memory_timeline", rows, run_dir)
    # KVzip's longest context that fitted, and the subject's.
    assert titles(figure) == ["tiny · KVzip, 200 tokens", "tiny · ProxyKV, parallel, 400 tokens"]
    target, proxy, end = figure.axes[1].lines
    assert list(target.get_ydata()) == [0.5, 1.0]
    assert list(proxy.get_ydata()) == [0.25, 0.5]
    assert next(iter(end.get_xdata())) == pytest.approx(seconds("proxykv", 400, 0))


def test_scores_against_whole_requests(rows: pd.DataFrame, run_dir: Path) -> None:
    figure = drawn("pareto_total", rows, run_dir)
    # Only the task whose contexts were measured; 256 tokens are nearest to 200.
    assert titles(figure) == ["tiny · single (times at 200 tokens)"]
    single = rows[rows.task == "single"]
    means = single.groupby(["method", "retention"]).score.mean()
    found = {
        (round(float(x), 6), round(float(y), 6))
        for marks in figure.axes[0].collections
        for x, y in marks.get_offsets()
    }
    expected = {
        (round(seconds(method, 200, 3) + 0.05, 6), round(score, 6))
        for (method, _), score in means.items()
    }
    assert found == expected


def test_the_page_shows_them(rows: pd.DataFrame, run_dir: Path, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    build_report(sorted(run_dir.glob("rows/*/*/*.parquet")), run_dir, page)
    text = page.read_text("utf-8")
    assert 'id="speedups"' in text and "2.00× · 2.00× · 2.00×" in text
    assert "2 × H100; reference on 1 × H100" in text and "out of memory" in text


@pytest.mark.parametrize("name", FIGURES)
def test_without_measurements_there_is_no_figure(
    name: str, rows: pd.DataFrame, tmp_path: Path
) -> None:
    assert plots.draw(name, rows, cards_of(rows), tmp_path) is None
