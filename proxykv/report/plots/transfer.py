"""Transfer: where a method was fitted, and where it is tested.

Each row is a fitted method, with the parts of the corpus and the context lengths that it was fitted
on. Each column is a part, or a length, of held-out contexts. The number is the overlap with the
oracle's kept set under equal budgets per head at ρ = 0.1: it measures token choice alone, and 1 is
perfect. By length it is a mean over the parts that have contexts of every length. A method of one
part, or of one length, was fitted on fewer contexts than the others. A method that reads hidden
states is judged on the tokens whose states are stored.
"""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from proxykv.config.cards import MethodCards
from proxykv.report.plots._curves import panels

METRIC, RETENTION, ALL = "head_overlap", 0.1, "all"


def draw(rows: pd.DataFrame, methods: MethodCards, run_dir: Path) -> Figure | None:
    """One heat map by part and one by length for each family; None without `fidelity.csv`.

    Args:
        rows: rows of the run.
        methods: cards of its methods.
        run_dir: folder of the run.
    """
    path = run_dir / "tables" / "fidelity.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path, dtype={"length": str, "fitted_lengths": str})
    table = table[(table.metric == METRIC) & (table.retention == RETENTION)]
    table = table.assign(line=[_named(row) for row in table.itertuples()])
    maps = {}
    for family, of_family in table.groupby("family"):
        maps[f"{family}: tested on"] = _grid(of_family[of_family.length == ALL], "part")
        single = _everywhere(of_family[of_family.length != ALL])
        if single.length.nunique() > 1:
            maps[f"{family}: tokens of the tested contexts"] = _grid(single, "length")
    lines = max(len(grid) for grid in maps.values())
    top = max(grid.to_numpy().max() for grid in maps.values())
    figure, axes = panels(list(maps), columns=2, width=5.2, height=1.4 + 0.32 * lines, legend=False)
    for axis, grid in zip(axes, maps.values(), strict=True):
        sns.heatmap(
            grid, ax=axis, vmin=0, vmax=top, cmap="cividis", annot=True, fmt=".2f", cbar=False
        )
        axis.set(xlabel="", ylabel="")
        axis.tick_params(length=0)
    return figure


def _everywhere(table: pd.DataFrame) -> pd.DataFrame:
    """The parts of the corpus that have contexts of every length."""
    lengths = table.groupby("part").length.nunique()
    everywhere = lengths.index[lengths == table.length.nunique()]
    return table.loc[table.part.isin(everywhere)]


def _grid(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean over what the column does not tell apart; rows and columns in the table's order."""
    grid = table.pivot_table(index="line", columns=column, values="mean", sort=False)
    return grid.loc[table.line.unique(), table[column].unique()]


def _named(row) -> str:
    limits = [what for what in (row.fitted_on, row.fitted_lengths) if what != ALL]
    return f"{row.method} ({', '.join(limits)})" if limits else row.method
