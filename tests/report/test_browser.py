"""The page in a real browser: what a reader does with it, and that it is quiet, safe and legible.

Needs Chromium (Debian's package) and Playwright; the continuous integration installs both.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows_fixture import make_rows, write_kept, write_run

from proxykv.report import build_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

BOARD = "#board-0-mean"
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
HOSTILE = {
    "markup": "</script><script>document.title = 'run'</script><img src=x onerror=alert(1)>",
    "long": "x" * 1_000_000,
    "right to left": "\u202eabc \u05d0\u05d1\u05d2 \u202d",
    "nul": "before\x00after\x1b[31m\ud7ff\ufffe",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address in a new tab. No tab may complain or load anything but the file."""
    contexts, said, loaded, opened = [], [], [], []

    def open_tab(address: str, **options: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": DESK} | options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda request: loaded.append(request.url))
        opened.append(address)
        tab.goto(address)
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert said == []
    assert [url.partition("#")[0] for url in loaded if not url.startswith("data:")] == [
        url.partition("#")[0] for url in opened
    ]


@pytest.fixture
def tab(visit: Callable[..., Any], report: str) -> Any:
    return visit(report)


@pytest.fixture(scope="module")
def report(run_dir: Path, page: str) -> str:
    return (run_dir / "report" / "index.html").as_uri()


def column(tab: Any, table: str, number: int) -> list[str]:
    """Values of a column's visible cells, as they are sorted and copied."""
    cells = f"{table} tbody tr:not([hidden]) > :nth-child({number})"
    return tab.eval_on_selector_all(cells, "cells => cells.map((cell) => cell.dataset.v)")


# --- what a reader does ---------------------------------------------------------------------------


def test_a_click_on_a_heading_sorts_and_another_one_reverses(tab: Any):
    heading = tab.locator(f"{BOARD} thead th").nth(1)
    before = [value for value in column(tab, BOARD, 2) if value]
    for state, signs in (("descending", -1), ("ascending", 1)):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == state
        *shown, last = column(tab, BOARD, 2)
        assert shown == sorted(before, key=lambda value: signs * float(value))
        assert last == ""  # the full cache has no value there


def test_a_filter_and_a_metric_are_part_of_the_link(tab: Any, visit: Callable[..., Any]):
    group = tab.locator("#leaderboard .group")
    group.get_by_role("searchbox").fill("control")
    group.get_by_role("button", name="KL").click()
    assert tab.locator(BOARD).is_hidden()
    for one in (tab, visit(tab.url)):
        assert one.locator("#board-0-kl").is_visible()
        assert column(one, "#board-0-kl", 1) == ["Shuffled proxy (control)", "Head prior (control)"]
        group = one.locator("#leaderboard .group")
        assert group.get_by_role("button", name="KL").get_attribute("aria-pressed") == "true"


def test_a_link_in_the_navigation_is_part_of_the_address(tab: Any):
    tab.get_by_role("navigation").get_by_role("link", name="Examples").click()
    assert tab.url.endswith("#examples")
    tab.wait_for_function("document.querySelector('#examples').getBoundingClientRect().top < 200")


def test_a_table_is_copied_as_it_is_shown(visit: Callable[..., Any], report: str):
    tab = visit(report, permissions=["clipboard-read", "clipboard-write"])
    group = tab.locator("#leaderboard .group")
    group.get_by_role("searchbox").fill("prior")
    copied = {}
    for name, start in {"CSV": "Method", "LaTeX": "\\\\begin"}.items():
        group.get_by_role("button", name=f"Copy {name}").click()
        clipboard = "navigator.clipboard.readText()"
        tab.wait_for_function(f"{clipboard}.then((text) => text.startsWith('{start}'))")
        copied[name] = tab.evaluate(clipboard).splitlines()
    heads, line = copied["CSV"]
    assert heads == "Method,ρ 0.05,ρ 0.3,ρ 0.5,ρ 1"
    assert line.split(",")[1:] == [value for n in (2, 3, 4, 5) for value in column(tab, BOARD, n)]
    assert copied["LaTeX"][0] == "\\begin{tabular}{lrrrr}"
    assert len(copied["LaTeX"]) == 7


def test_all_can_be_done_with_the_keyboard(tab: Any):
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    heading = tab.locator(f"{BOARD} thead th").nth(1)
    heading.get_by_role("button").focus()
    tab.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    tab.locator("#explorer-filters select[name=outcome]").focus()
    tab.keyboard.press("ArrowDown")
    assert "examples.outcome=lost" in tab.url


@pytest.mark.parametrize("outcome", ["lost", "kept", "gained"])
def test_the_explorer_shows_the_outcome_that_is_asked_for(
    visit: Callable[..., Any], report: str, outcome: str
):
    everything = f"#examples?examples.outcome={outcome}&examples.task=all&examples.method=all"
    tab = visit(report + everything)
    shown = tab.eval_on_selector_all(".answer", "nodes => nodes.map((node) => node.classList[1])")
    signs = {"lost": -1, "kept": 0, "gained": 1}
    expected = 0
    for example in json.loads(tab.locator("#data").text_content())["examples"]:
        full = next(a["score"] for a in example["answers"] if a["retention"] == 1)
        scores = [a["score"] for a in example["answers"] if a["retention"] < 1]
        expected += int(sum(np.sign(np.subtract(scores, full)) == signs[outcome]))
    assert list(filter(None, shown)) == [outcome] * expected and expected > 0


def test_the_reader_chooses_which_methods_of_the_figures_are_in_colour(
    visit: Callable[..., Any], report: str
):
    pale = "nodes => [...new Set(nodes.map((node) => node.dataset.method))].sort()"
    tab = visit(report)
    boxes = tab.locator("#figure-methods")
    others = {"full", "kvzip", "prior", "proxykv_shuffled", "random", "snapkv"}
    assert tab.locator("figure .pale").count() == 0  # few methods: all are in colour
    for name in ("Full cache", "KVzip", "SnapKV"):
        boxes.get_by_label(name, exact=True).press("Space")
    for one in (tab, visit(tab.url)):
        assert set(one.eval_on_selector_all("figure .pale", pale)) == others
    boxes.get_by_role("button", name="All").click()
    assert tab.locator("figure .pale").count() == 0
    boxes.get_by_role("button", name="Main ones").click()
    tab.wait_for_function("!location.hash.includes('figures.methods')")


@pytest.fixture(scope="module")
def kept_report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of a run that stored which tokens are kept of contexts with hostile text."""
    rows = make_rows(
        methods=("kvzip", "proxykv"), tasks=("vt",), retentions=(0.1, 0.3), contexts=2, questions=2
    )
    rows["score"] = (rows.retention != 0.1).astype(float)
    run = tmp_path_factory.mktemp("kept") / "run"
    paths = write_run(run, rows)
    write_kept(run, rows, [HOSTILE["markup"], HOSTILE["right to left"]])
    build_report(paths, run, run / "index.html")
    return (run / "index.html").as_uri()


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_the_tokens_that_are_kept_are_shaded_and_part_of_the_link(
    visit: Callable[..., Any], kept_report: str, viewport: dict[str, int], scheme: str
):
    first = visit(f"{kept_report}#examples", viewport=viewport, color_scheme=scheme)
    card = first.locator(".example", has_text="vt-000 · question 1").first
    assert HOSTILE["markup"] + "?" in card.locator(".text").all_text_contents()
    card.get_by_role("button", name="Kept tokens").first.press("Enter")
    assert first.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    for tab in (first, visit(first.url, viewport=viewport, color_scheme=scheme)):
        (view,) = tab.locator(".kept-tokens").all()
        said = view.locator("p").first.text_content()
        assert said.startswith("10 % of the context's pairs are kept. The reference, outlined")
        assert said.endswith(
            "10 % of its pairs are kept, 90 % were dropped before this worse answer."
        )
        text = view.get_by_role("region", name="Context")
        gaps = [gap.strip(" …") for gap in text.locator("em").all_text_contents()]
        assert gaps == ["10 tokens", "40 tokens", "30 tokens"]
        assert text.locator("mark").all_text_contents() == [HOSTILE["markup"]]
        tokens = text.locator("span, mark")
        titles = tokens.evaluate_all("nodes => nodes.map((node) => node.title)")
        assert titles == ["100 %"] * 4 + ["0 %"] * 16
        colour = "node => getComputedStyle(node).backgroundColor"
        assert tokens.first.evaluate(colour) != tokens.last.evaluate(colour)
        assert view.get_by_role("img").count() == 2
        assert fits(tab)
    for layer, share in (("1", "0 %"), ("0", "49 %")):
        first.locator(".kept-tokens select").select_option(layer)
        for tab in (first, visit(first.url, viewport=viewport, color_scheme=scheme)):
            view = tab.locator(".kept-tokens")
            assert f"all heads of layer {layer}" in view.locator(".legend").text_content()
            assert view.locator("mark").get_attribute("title") == share
    first.eval_on_selector_all("figure svg", "all => all.map((svg) => svg.replaceChildren())")
    assert axe.Axe().run(first).response["violations"] == []
    first.locator("[aria-expanded=true]").click()
    assert first.locator(".kept-tokens").count() == 0 and "examples.kept" not in first.url


def test_without_stored_contexts_nothing_offers_their_tokens(tab: Any):
    assert tab.locator("[data-kept]").count() == 0


# --- what others wrote ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page whose predictions and references are hostile."""
    rows = make_rows(
        methods=("proxykv",), tasks=("single",), retentions=(0.1,), contexts=4, questions=1
    )
    texts = dict(zip(sorted(rows.context_id.unique()), HOSTILE.values(), strict=True))
    rows["prediction"] = rows.context_id.map(texts)
    rows["references"] = [[text] for text in rows.prediction]
    run = tmp_path_factory.mktemp("hostile") / "run"
    build_report(write_run(run, rows), run, run / "index.html")
    return (run / "index.html").as_uri()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_answer_is_text_and_nothing_else(
    visit: Callable[..., Any], hostile_report: str, kind: str
):
    tab = visit(hostile_report + "#examples?examples.task=all", viewport=PHONE)
    assert tab.title() == "ProxyKV report: run"
    assert tab.locator("script").count() == 2
    assert tab.locator("#explorer img, #explorer script").count() == 0
    shown = tab.locator("#explorer .text").all_text_contents()
    text = HOSTILE[kind]
    assert (text if len(text) < 1000 else f"{text[:1500]} … (1000000 characters)") in shown
    assert fits(tab)


# --- how it looks ---------------------------------------------------------------------------------


def fits(tab: Any) -> bool:
    """Whether the page needs no horizontal scrolling; tables and figures scroll inside it."""
    return tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_axe_finds_no_barrier_and_nothing_sticks_out(
    visit: Callable[..., Any], report: str, viewport: dict[str, int], scheme: str
):
    tab = visit(report, viewport=viewport, color_scheme=scheme)
    assert fits(tab)
    # To axe a figure is one image, as its role says, not ten thousand strokes.
    tab.eval_on_selector_all("figure svg", "figures => figures.map((svg) => svg.replaceChildren())")
    found = axe.Axe().run(tab).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []


def test_dark_mode_is_dark(visit: Callable[..., Any], report: str):
    def light(scheme: str) -> dict[str, int]:
        tab = visit(report, color_scheme=scheme)
        style = "getComputedStyle(document.body)"
        colors = {name: tab.evaluate(f"{style}.{name}") for name in ("color", "backgroundColor")}
        return {name: int(color[4:].split(",")[0]) for name, color in colors.items()}

    day, night = light("light"), light("dark")
    assert day["backgroundColor"] > 200 and night["backgroundColor"] < 60
    assert day["color"] < 60 and night["color"] > 200


def test_print_leaves_out_what_paper_cannot_do(tab: Any):
    tab.emulate_media(media="print")
    for useless in ("nav", "#examples", ".tools"):
        assert tab.locator(useless).first.is_hidden()
    assert tab.locator(BOARD).is_visible() and tab.locator("figure").first.is_visible()
    assert tab.pdf().startswith(b"%PDF")
