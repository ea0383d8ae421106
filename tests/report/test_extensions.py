"""A method or a plot is one file: the report, the tests in it and the estimate follow from it."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from checkout import forget_files
from rows_fixture import make_rows

from proxykv.cli import main
from proxykv.config import catalog, paths
from proxykv.config.cards import MethodCards, method_cards, methods_table
from proxykv.config.check import config_problems
from proxykv.config.cost.estimate import estimate
from proxykv.config.run import Run
from proxykv.report import build_report, plots
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.parquet import write_parquet

METHOD = '''"""A rival that replays the context as the oracle does."""

VARIANTS = {"mine": {"scope": "global"}}
CARDS = {
    "mine": {
        "label": "My method",
        "role": "rival",
        "about": "a method of the user's",
        "color": "#123456",
        "marker": "o",
        "cost": ["target_replay"],
    },
}


class Mine:
    def __init__(self, context, power: int = 1) -> None: ...


METHOD = Mine
'''
GUIDE = (catalog.ROOT / "docs" / "how-to" / "extend.md").read_text("utf-8")
(PLOT,) = (b for b in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "def draw" in b)


def config(*methods: Any, **settings: Any) -> dict[str, Any]:
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": 4, "lengths": [64]}
    return {
        "run": "extended",
        "families": ["tiny"],
        "retentions": [0.1, 0.3, 1.0],
        "methods": ["full", "proxykv", *methods],
        "benchmarks": [dataset],
        "corpus": [dataset],
        "training": {"val_contexts": 1},
        **settings,
    }


def finished(run: Run) -> Run:
    """The run with rows of its methods in its folder; the user's behaves as SnapKV."""
    run.write()
    rows = make_rows(methods=("proxykv", "snapkv"), tasks=("single",), retentions=(0.1, 0.3))
    behaves_as = {"mine": "snapkv", "again": "snapkv"}
    of_methods = [
        rows[rows.method == behaves_as.get(method, method)].assign(method=method)
        for method in run.methods
    ]
    (job,) = run.jobs()
    write_parquet(job.file("rows"), pd.concat(of_methods, ignore_index=True))
    # As screening and fitting leave them: nothing was dropped.
    paths.dropped(run, "tiny").parent.mkdir(parents=True)
    paths.dropped(run, "tiny").write_text("[]")
    for method in run.fitted_ids:
        paths.fitted_dir(run, "tiny", method).mkdir()
        card = '{"decontamination": {"dropped": []}}'
        (paths.fitted_dir(run, "tiny", method) / "card.json").write_text(card)
    return run


def hours(*methods: Any) -> float:
    return sum(part.hours for part in estimate(Run(config(*methods))))


def add_method(checkout: Path, text: str = METHOD) -> Path:
    path = checkout / "baselines" / "mine.py"
    path.write_text(text, "utf-8")
    forget_files()
    return path


def test_a_file_adds_a_method_to_everything_that_is_shown(linked_checkout: Path) -> None:
    file = add_method(linked_checkout)
    assert hours("mine") > hours("random")
    assert (
        "| `mine` | My method | rival | global | no | a method of the user's |" in methods_table()
    )
    run = finished(Run(config("mine", {"id": "again", "base": "mine", "params": {"power": 2}})))
    stored = str(run.dir / "config.json")
    for step in ("tabulate", "plot", "report"):
        assert main([step, "--config", stored]) == 0
    tables = {
        name: pd.read_csv(run.dir / "tables" / f"{name}.csv") for name in ("leaderboard", "paired")
    }
    assert "mine" in set(tables["leaderboard"].method)
    assert set(tables["paired"].reference) == {"mine"}
    page = (run.dir / "report" / "index.html").read_text("utf-8")
    assert re.search(r"ProxyKV (beats|is worse than|does not differ visibly from) My method", page)
    figure = plots.draw("accuracy_retention", rows_of(run), MethodCards.read(run.dir), run.dir)
    assert figure is not None
    (legend,) = figure.legends
    assert "My method" in [text.get_text() for text in legend.get_texts()]

    # The run keeps its cards: the report is made again when the method's file is gone.
    file.unlink()
    forget_files()
    with pytest.raises(ConfigError, match="unknown method 'mine'"):
        Run.read(Path(stored))
    (run.dir / "report" / "index.html").unlink()
    for step in ("tabulate", "plot", "report"):
        assert main([step, "--config", stored]) == 0
    assert (run.dir / "report" / "index.html").read_text("utf-8") == page


def test_a_derived_method_inherits_cost_and_description_but_not_role_and_look() -> None:
    derived = {"id": "mse", "base": "proxykv", "params": {"weights": {"mse": 1}}}
    cards = method_cards(
        config("kvzip", derived, {"id": "mse_head", "base": "mse", "scope": "head"})
    )
    variant, base = cards.card("mse_head"), cards.card("proxykv")
    assert (variant.label, variant.role, variant.color) == ("mse_head", "baseline", None)
    assert (variant.about, variant.cost, variant.fitted) == (base.about, base.cost, True)
    assert cards.comparisons == {"main": (("proxykv", "kvzip"),)}
    looks = plots.looks(cards, cards.cards)
    assert len({look.color for look in looks.values()}) == len(looks)
    assert plots.looks(cards, ["mse"])["mse"] == looks["mse"]  # the same in every figure


def test_cards_are_read_back_as_written(tmp_path: Path) -> None:
    shipped = [m for m in catalog.variants() if not m.endswith(":")]
    pairs = [{"group": "more", "pairs": [["kvzip", "snapkv"]]}]
    cards = method_cards({"methods": [*shipped, "kvpress:KnormPress"], "comparisons": pairs})
    cards.write(tmp_path)
    assert MethodCards.read(tmp_path) == cards
    assert cards.comparisons["more"] == (("kvzip", "snapkv"),)
    with pytest.raises(ConfigError, match=r"methods\.json: no such file; the workflow writes it"):
        MethodCards.read(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"rival"', '"rivl"', "baselines/mine.py: CARDS.mine.role: 'rivl' is not one of"),
        ('"rival"', '"control"', "baselines/mine.py: CARDS.mine: 'shows' is a required property"),
        (
            '"label"',
            '"lable"',
            "baselines/mine.py: CARDS.mine: unknown key 'lable'; did you mean 'label'?",
        ),
        ('"#123456"', '"blue"', "baselines/mine.py: CARDS.mine.color: 'blue' is not allowed"),
        (
            "target_replay",
            "replay",
            "baselines/mine.py: CARDS.mine.cost[0]: 'replay' is not one of",
        ),
        ('"rival"', '"subject"', "config.methods: proxykv and mine have the role 'subject'"),
    ],
)
def test_mistakes_in_a_card_are_named(linked_checkout: Path, old: str, new: str, line: str) -> None:
    add_method(linked_checkout, METHOD.replace(old, new))
    problems = config_problems(config("mine"))
    assert any(problem.startswith(line) for problem in problems), problems


def test_every_card_is_read_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from proxykv.config import catalog\n"
        "from proxykv.config.cards import method_cards\n"
        "ids = [m for m in catalog.variants() if not m.endswith(':')]\n"
        "cards = method_cards({'methods': ids})\n"
        "assert all(card.about and card.label != name for name, card in cards.cards.items())\n"
        "from proxykv.cli import main\n"
        "assert main(['methods']) == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=catalog.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(methods_table())


def test_a_file_adds_a_plot(
    linked_checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("plots")
    (folder / "answer_length.py").write_text(PLOT, "utf-8")
    monkeypatch.setattr(plots, "__path__", [*plots.__path__, str(folder)])
    run = finished(Run(config()))
    rows = paths.row_files(run)
    written = plots.draw_figures(rows, run.dir, run.dir / "figures")
    assert {"answer_length.svg", "answer_length.png"} <= {path.name for path in written}
    build_report(rows, run.dir, run.dir / "report" / "index.html")
    page = (run.dir / "report" / "index.html").read_text("utf-8")
    title, _, caption = (ast.get_docstring(ast.parse(PLOT)) or "").partition("\n")
    assert title and title.rstrip(".") in page
    assert caption and " ".join(caption.split()) in page


def rows_of(run: Run) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in paths.row_files(run)])
