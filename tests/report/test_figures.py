"""What the figures draw, read from their axes."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rows_fixture import METHODS as ROW_METHODS
from rows_fixture import cards_of, make_rows, write_run

from proxykv.config import catalog
from proxykv.config.cards import method_cards
from proxykv.report import plots, tables
from proxykv.report.plots._curves import draw_curves
from proxykv.report.plots._emphasis import GID, GREY, GREY_TEXT, crowded, inline, mute
from proxykv.report.plots._image import render
from proxykv.report.plots._points import points as drawn_points
from proxykv.runtime.errors import ConfigError

METHODS = ("kvzip", "proxykv", "snapkv", "random", "prior")
RETENTIONS = (0.05, 0.3, 0.5)
TASKS = ("single", "vt")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Two families, to see that each has its panels."""
    made = make_rows(
        families=("a", "b"), contexts=4, methods=METHODS, retentions=RETENTIONS, tasks=TASKS
    )
    rng = np.random.default_rng(3)
    return made.assign(
        score=rng.integers(0, 9, len(made)) / 8,
        kv_bytes=(made.retention * 2**20 * (1 + (made.method == "random"))).astype(int),
        score_seconds=made.score_seconds + made.retention,
    )


@pytest.fixture(scope="module")
def run_dir(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("results") / "demo"
    write_run(run, rows)
    return run


def drawn(name: str, rows: pd.DataFrame, run_dir: Path) -> Figure:
    figure = plots.draw(name, rows, cards_of(rows), run_dir)
    assert figure is not None
    return figure


def panels(figure: Figure) -> dict[str, Axes]:
    return {axis.get_title("left"): axis for axis in figure.axes if axis.get_visible()}


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]


def color(method: str, rows: pd.DataFrame) -> str:
    return plots.looks(cards_of(rows), [method])[method].color.lower()


def curves(axis: Axes, rows: pd.DataFrame) -> dict[str, list[tuple[float, float]]]:
    """The lines of an axis by method, without the full cache's level."""
    names = {color(m, rows): m for m in ("full", *METHODS)}
    lines = [line for line in axis.lines if line.get_linestyle() != ":"]
    return {names[to_hex(line.get_color())]: points(line) for line in lines}


def near(pairs: list[tuple[float, float]]) -> Any:
    return [pytest.approx(pair) for pair in pairs]


# --- quality against cost -------------------------------------------------------------------------


def test_quality_against_cost(rows: pd.DataFrame, run_dir: Path):
    table = tables.quality_cost(rows, cards_of(rows))
    found = panels(drawn("quality_cost", rows, run_dir))
    assert len(found) == 2 * 4  # families, times recovery and KL against seconds and operations
    for title, axis in found.items():
        part = table[table.family == title[0]].set_index("method")
        quality, cost = title.split(": ")[1].split(", ")
        marks = {}
        for line in axis.lines:
            if line.get_marker() not in ("None", "_", "|"):
                marks[to_hex(line.get_color())] = points(line)
        for method in METHODS:
            point = part.loc[method]
            assert marks[color(method, rows)] == near([(point[cost], point[quality])])


# --- curves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label", "value"),
    [
        ("accuracy_retention", "mean score", "mean"),
        ("kl_retention", "KL(full ‖ pruned), nats per token", "kl"),
    ],
)
def test_curves_of_a_benchmark(
    name: str, label: str, value: str, rows: pd.DataFrame, run_dir: Path
):
    board = tables.leaderboard(rows, cards_of(rows))
    found = panels(drawn(name, rows, run_dir))
    assert list(found) == ["a · tiny", "b · tiny"]
    for family, axis in zip("ab", found.values(), strict=True):
        part = board[board.family == family].set_index(["method", "retention"])
        assert_curves(axis, part, rows, value)
        assert axis.get_ylabel() == label
        assert axis.get_xlabel() == "retention ρ (KV pairs kept)"
        assert axis.get_yscale() == ("log" if value == "kl" else "linear")


def test_curves_of_every_task(rows: pd.DataFrame, run_dir: Path):
    board = tables.per_task(rows, cards_of(rows))
    found = panels(drawn("accuracy_per_task", rows, run_dir))
    assert list(found) == [f"{f} · tiny · {task}" for f in "ab" for task in TASKS]
    for title, axis in found.items():
        family, _, task = title.split(" · ")
        part = board[(board.family == family) & (board.task == task)]
        part = part.set_index(["method", "retention"])
        assert_curves(axis, part, rows, "mean", bands={"kvzip", "proxykv"})


def assert_curves(
    axis: Axes, part: pd.DataFrame, rows: pd.DataFrame, value: str, bands: set[str] | None = None
) -> None:
    """Each method's curve and band; curves of scores end in the full cache's point."""
    lines = curves(axis, rows)
    full = part.loc[("full", 1.0)]
    ends = [] if value == "kl" else [(3.0, full["mean"])]
    assert lines.pop("full", ends) == near(ends)
    assert set(lines) == set(METHODS)
    for method, line in lines.items():
        expected = [(i, part.loc[(method, rho), value]) for i, rho in enumerate(RETENTIONS)]
        assert line == near([*expected, *ends])
    labels = [text.get_text() for text in axis.get_xticklabels()]
    assert labels == ["0.05", "0.3", "0.5", *(["1"] if ends else [])]
    levels = [line for line in axis.lines if line.get_linestyle() == ":"]
    assert [points(line)[0][1] for line in levels] == [pytest.approx(y) for _, y in ends]
    assert_bands(axis, part, rows, value, bands or set(METHODS))


def test_a_curve_of_a_self_pruning_method_stands_at_what_it_kept():
    line = {"method": "own", "scope": "custom", "ci_low": 0.0, "ci_high": 1.0}
    table = pd.DataFrame(
        [
            {**line, "retention": 0.1, "achieved_retention": 0.2, "mean": 0.5},
            {**line, "retention": 0.3, "achieved_retention": 0.3, "mean": 0.7},
            {**line, "method": "full", "retention": 1.0, "achieved_retention": 1.0, "mean": 0.9},
        ]
    )
    styles = {
        "own": plots.Look("Own", "#000000", "o", "rival", "own"),
        "full": plots.Look("Full", "#111111", "s", "baseline", "full"),
    }
    axis = Figure().subplots()
    draw_curves(axis, table, styles, "mean", "ci_low", "ci_high")
    (curve,) = [drawn for drawn in axis.lines if len(drawn.get_xdata()) == 3]
    assert points(curve) == near([(0.5, 0.5), (1, 0.7), (2, 0.9)])


def assert_bands(
    axis: Axes, part: pd.DataFrame, rows: pd.DataFrame, value: str, methods: set[str]
) -> None:
    prefix = "ci" if value == "mean" else value
    found = {}
    for band in axis.collections:
        (outline,) = band.get_paths()
        found[to_hex(band.get_facecolor()[0])] = outline.vertices
    assert set(found) == {color(method, rows) for method in methods}
    for method in methods:
        for i, rho in enumerate(RETENTIONS):
            corners = found[color(method, rows)]
            ys = {round(float(y), 9) for x, y in corners if x == i}
            ends = part.loc[(method, rho), [f"{prefix}_low", f"{prefix}_high"]]
            assert ys == {round(float(end), 9) for end in ends}


@pytest.mark.parametrize(
    ("name", "better", "title"),
    [
        ("accuracy_retention", -1, "Best first, ρ ≤ 0.3"),
        ("kl_retention", 1, "Closest first, ρ ≤ 0.3"),
        ("accuracy_per_task", -1, "Best first, ρ ≤ 0.3"),
        ("pareto", -1, "Best first, ρ ≤ 0.3"),
    ],
)
def test_the_legend_lists_the_best_first(
    name: str, better: int, title: str, rows: pd.DataFrame, run_dir: Path
):
    board = tables.leaderboard(rows, cards_of(rows))
    column = "kl" if better > 0 else "mean"
    low = board[board.retention <= 0.3].groupby("method")[column].mean().to_dict()
    labels = {m: card.label for m, card in cards_of(rows).cards.items()}
    order = sorted(METHODS, key=lambda method: better * low[method])
    (legend,) = drawn(name, rows, run_dir).legends
    full = [] if better > 0 else ["Full cache"]
    assert [t.get_text() for t in legend.get_texts()] == full + [labels[m] for m in order]
    assert legend.get_title().get_text() == title


def test_a_ranking_goes_by_low_retentions_and_by_all_where_there_are_none():
    table = pd.DataFrame(
        {
            "method": ["full", "a", "b", "a", "b"],
            "retention": [1.0, 0.3, 0.3, 0.5, 0.5],
            "mean": [0.1, 0.6, 0.5, 0.1, 0.9],
            "kl": [0.0, 2.0, 1.0, 1.0, 2.0],
        }
    )
    assert plots.ranking(table) == ["full", "a", "b"]
    assert plots.ranking(table, "kl") == ["full", "b", "a"]
    assert plots.ranking(table[table.retention != 0.3]) == ["full", "b", "a"]
    assert plots.ranking(table[table.retention == 1]) == ["full"]


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "cost"), [(0, "kept KV, MiB"), (1, "prefill + scoring, s")])
def test_score_against_cost(rows: pd.DataFrame, run_dir: Path, number: int, cost: str):
    found = panels(drawn("pareto", rows, run_dir))
    assert list(found) == [
        f"{f} · tiny: {c}" for f in "ab" for c in ("kept KV", "prefill + scoring")
    ]
    costs = tables.costs(rows, cards_of(rows))
    for family, axis in zip("ab", list(found.values())[number::2], strict=True):
        part = costs[costs.family == family]
        x = part.kv_bytes / 2**20 if number == 0 else part.seconds
        everything = list(zip(x, part.score, strict=True))
        *lines, stairs = sorted(axis.lines, key=lambda line: line.get_linewidth())
        shown = [point for line in lines for point in points(line)]
        assert sorted(shown) == near(sorted(everything))
        marks = [
            tuple(map(float, p)) for c in axis.collections for p in np.asarray(c.get_offsets())
        ]
        assert sorted(marks) == near(sorted(everything))
        assert points(stairs) == near(front(everything))
        assert (axis.get_xlabel(), axis.get_ylabel()) == (cost, "mean score")
        # Labels stand at points of the front and name their retention.
        at = {
            (round(cost, 6), round(score, 6)): rho
            for (cost, score), rho in zip(everything, part.retention, strict=True)
        }
        assert axis.texts
        for text in axis.texts:
            place = tuple(round(float(value), 6) for value in text.xy)
            assert place in {(round(a, 6), round(b, 6)) for a, b in front(everything)}
            assert text.get_text() == f"{at[place]:g}"


def front(everything: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points for which no other costs at most as much and scores at least as much."""
    return sorted(
        {
            one
            for one in everything
            if not any(a <= one[0] and b >= one[1] and (a, b) != one for a, b in everything)
        }
    )


# --- training -------------------------------------------------------------------------------------


def test_training_draws_the_log(rows: pd.DataFrame, run_dir: Path):
    axes = panels(drawn("training", rows, run_dir))
    assert next(iter(axes)) == "a · proxykv: total loss"
    log = pd.read_json(run_dir / "mappers/a/proxykv/log.jsonl", lines=True)
    train, held_out = log[log.split == "train"], log[log.split == "val"]
    total, terms, mass, overlap = drawn("training", rows, run_dir).axes[:4]
    pale, smooth = total.lines
    assert points(pale) == near(list(zip(train.step, train.total, strict=True)))
    window = train.total.rolling(5, center=True, min_periods=1).median()
    assert list(smooth.get_ydata()) == [pytest.approx(v) for v in window]
    assert smooth.get_label() == "total"
    assert [str(label) for label in terms.get_legend_handles_labels()[1]] == [
        "bin", "mse", "fine", "global", "cos",
    ]  # fmt: skip
    for axis, prefix, label in ((mass, "mass", "ρ {}"), (overlap, "head_overlap", "head ρ {}")):
        for line in axis.lines:
            name = str(line.get_label())
            for rho in (0.1, 0.2, 0.3, 0.5):
                if name == label.format(rho):
                    column = held_out[f"{prefix}@{rho}"]
                    assert points(line) == near(list(zip(held_out.step, column, strict=True)))
    assert {str(line.get_label()) for line in mass.lines} == {
        f"ρ {rho}" for rho in (0.1, 0.2, 0.3, 0.5)
    }
    assert {str(line.get_label()) for line in overlap.lines} == {
        f"{kind} ρ {rho}" for kind in ("head", "global") for rho in (0.1, 0.3)
    }


# --- many methods ---------------------------------------------------------------------------------


def test_many_methods_are_grey_but_for_the_main_ones():
    rows = make_rows(methods=tuple(ROW_METHODS), contexts=2, tasks=("single",))
    cards = cards_of(rows)
    main = plots.main_methods(rows, cards)
    assert set(main) >= {"full", "kvzip", "proxykv", "snapkv"}
    styles = plots.looks(cards, rows.method.unique())
    for name in ("accuracy_retention", "pareto", "quality_cost"):
        figure = plots.draw(name, rows, cards, Path())
        assert figure is not None and crowded(figure)
        mute(figure, main)
        for axis in figure.axes:
            bars = [artist for artist in axis.collections if isinstance(artist, LineCollection)]
            for line in [*axis.lines, *bars]:
                method = str(line.get_gid()).removeprefix(GID)
                if method in styles:
                    look = styles[method]
                    color = line.get_color()
                    assert to_hex(color if isinstance(line, Line2D) else color[0]) == (
                        look.color.lower() if method in main else GREY
                    )
        (legend,) = figure.legends
        names = {text.get_text(): to_hex(text.get_color()) for text in legend.get_texts()}
        assert {look.label for m, look in styles.items() if m not in main} == {
            name for name, color in names.items() if color == GREY_TEXT
        } & {look.label for look in styles.values()}


def test_few_methods_keep_their_colours(rows: pd.DataFrame, run_dir: Path):
    figure = drawn("accuracy_retention", rows, run_dir)
    before = [line.get_color() for line in figure.axes[0].lines]
    mute(figure, [])
    assert [line.get_color() for line in figure.axes[0].lines] == before


def test_a_figure_in_a_page_has_names_of_its_own(rows: pd.DataFrame, run_dir: Path):
    svg = render(drawn("pareto", rows, run_dir), [".svg"])[".svg"]
    text = inline(svg, "one", "What it <shows>")
    names = set(re.findall(r'\bid="([^"]+)"', text))
    assert names and all(name.startswith("one-") for name in names)
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used and used <= names
    assert set(re.findall(r'data-method="([^"]+)"', text)) == {"full", *METHODS}
    assert 'aria-label="What it &lt;shows&gt;"' in text and "<style" not in text


# --- files ----------------------------------------------------------------------------------------


def test_every_plot_is_found_described_and_drawn_reproducibly(rows: pd.DataFrame, run_dir: Path):
    assert set(plots.names()) == {
        "accuracy_retention", "accuracy_per_task", "kl_retention", "pareto", "training",
        "ablation", "transfer", "quality_cost",
        "kept_heads", "kept_overlap", "kept_positions", "needle_depth",
        "latency", "latency_real", "memory_timeline", "pareto_total", "time_shares",
    }  # fmt: skip
    for name in plots.names():
        title, caption = plots.describe(name)
        assert title and not title.endswith(".") and len(caption) > 60
    figures = [plots.draw("kl_retention", rows, cards_of(rows), run_dir) for _ in range(2)]
    first, second = (render(figure, plots.SUFFIXES) for figure in figures if figure)
    assert first == second
    for suffix, start in {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}.items():
        assert first[suffix].startswith(start)


def test_the_points_of_a_figure_are_those_of_its_lines_bands_bars_and_maps():
    figure = Figure()
    one, two, off = figure.subplots(1, 3)
    one.set_title("curves", loc="left")
    one.plot([1, 2], [3, np.nan], gid=GID + "kvzip")
    one.axhline(7, gid=GID + "full")
    one.fill_between([1, 2], [0, 1], [5, 6], gid=GID + "kvzip")
    one.scatter([8], [9], label="best")
    one.errorbar([4], [5], yerr=[[1], [2]], label="_")
    two.bar([0, 1], [2, 3], bottom=[0, 2])
    two.barh(0.5, 4, left=1, transform=two.get_xaxis_transform())
    figure.colorbar(two.imshow([[1.0, np.nan], [3.0, 4.0]]))
    off.plot([1], [1])
    off.set_visible(False)
    found = drawn_points(figure).astype(object).fillna("").astype(str).agg(" ".join, axis=1)
    assert list(found) == [
        *("1 curves kvzip line 1 1.0 3.0 ", "1 curves kvzip line 2 2.0  "),
        *("1 curves full level 1  7.0 ", "1 curves  line 1 4.0 5.0 "),
        *("1 curves kvzip low 1 1.0 0.0 ", "1 curves kvzip high 1 1.0 5.0 "),
        *("1 curves kvzip low 2 2.0 1.0 ", "1 curves kvzip high 2 2.0 6.0 "),
        "1 curves best marks 1 8.0 9.0 ",
        *("1 curves  interval 1 4.0 4.0 ", "1 curves  interval 2 4.0 7.0 "),
        *("2   bars 1 0.0 0.0 2.0", "2   bars 2 1.0 2.0 3.0", "2   bars 3 1.0  4.0"),
        *("2   cells 1 0.0 0.0 1.0", "2   cells 2 1.0 0.0 "),
        *("2   cells 3 0.0 1.0 3.0", "2   cells 4 1.0 1.0 4.0"),
    ]


def test_draw_figures_writes_svg_png_and_pdf(run_dir: Path, tmp_path: Path):
    paths = (run_dir / "rows").glob("*/*/*.parquet")
    written = plots.draw_figures(paths, run_dir, tmp_path, only=["pareto"])
    assert [p.name for p in written] == [f"pareto.{s}" for s in ("svg", "png", "pdf", "csv")]
    assert all(p.stat().st_size > 1000 for p in written)
    assert "<!-- PARTIAL -->" not in written[0].read_text("utf-8")


def test_figures_of_an_unfinished_run_say_so(run_dir: Path, tmp_path: Path):
    paths = (run_dir / "rows").glob("*/*/*.parquet")
    svg, *_ = plots.draw_figures(paths, run_dir, tmp_path, only=["kl_retention"], partial=True)
    assert "<!-- PARTIAL -->" in svg.read_text("utf-8")


def test_plots_without_anything_to_show_give_none(rows: pd.DataFrame, tmp_path: Path):
    assert plots.draw("training", rows, cards_of(rows), tmp_path) is None
    assert plots.draw("kl_retention", rows.assign(kl=np.nan), cards_of(rows), tmp_path) is None


def test_unknown_plot_is_a_user_error():
    with pytest.raises(ConfigError, match="no plot 'acuracy'"):
        plots.load("acuracy")


def test_no_two_methods_share_a_colour_or_a_marker():
    shipped = [m for m in catalog.variants() if not m.endswith(":")]
    derived = [{"id": f"ablation_{i}", "base": "proxykv"} for i in range(8)]
    cards = method_cards({"methods": [*shipped, *derived]})
    many = plots.looks(cards, cards.cards)
    assert len(many) == len(shipped) + 8
    assert len({look.color.lower() for look in many.values()}) == len(many)
    assert len({look.marker for look in many.values()}) == len(many)
