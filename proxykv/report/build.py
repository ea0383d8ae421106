"""From a run's rows to `index.html`: one file that contains everything and loads nothing."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from proxykv import __version__
from proxykv.config.cards import MethodCards
from proxykv.report import cells, plots, tables
from proxykv.report.cells import Table, number
from proxykv.report.efficiency_cells import efficiency_tables
from proxykv.report.explorer import explorer
from proxykv.report.paper import paper, paper_table
from proxykv.report.plots import Look
from proxykv.report.plots._emphasis import crowded, inline
from proxykv.report.plots._image import render
from proxykv.report.tables.columns import CELL, LOW_RETENTION, SYNTHETIC
from proxykv.report.tabulate import provenance
from proxykv.report.verdict import verdicts
from proxykv.runtime import files

METRICS = (cells.SCORE, cells.RECOVERY, cells.KL)
TASK_METRICS = (cells.SCORE, cells.PERCENT, cells.NLL, cells.KL)
FIXED_METRICS = (*TASK_METRICS, cells.FIXED)


def build_report(
    rows_paths: Iterable[Path],
    run_dir: Path,
    out: Path,
    *,
    audited: str = "",
    findings: Sequence[str] = (),
    progress: Sequence[Mapping[str, Any]] = (),
    positions: Mapping[str, int] | None = None,
) -> None:
    """Write the report of a run.

    Tables and figures are computed from the rows here, so that page and rows cannot disagree.

    Args:
        rows_paths: Parquet files of the run's rows.
        run_dir: the run's folder; its `methods.json` names, orders and compares the methods.
        out: the HTML file to write.
        audited: how much of the run was audited.
        findings: what the audit found; the page begins with them.
        progress: a record of each job and scan, with its `state`; if some are not done, the page
            and its figures say that they are partial.
        positions: of the models of each family; longer contexts are named at the page's head.

    Raises:
        ConfigError: if there are no rows or no `methods.json`.
    """
    rows = tables.read_rows(rows_paths)
    methods = MethodCards.read(run_dir)
    made = {name: table(rows, methods) for name, table in tables.TABLES.items()}
    styles = plots.looks(methods, plots.ranking(made["leaderboard"]))
    main = plots.main_methods(rows, methods)
    page = page_template("index.html.j2").render(
        run=run_dir.name,
        synthetic=bool((rows.code_hash == SYNTHETIC).any()),
        beyond=list(_beyond(rows, positions or {})),
        facts=_facts(rows),
        verdicts=verdicts(made, methods),
        boards=_boards(made, styles),
        paired=_paired(made["paired"], styles),
        by_length=_differences(
            made["by_length"], "by-length", f"By length, score at ρ ≤ {LOW_RETENTION}", styles
        ),
        efficiency=efficiency_tables(run_dir, methods),
        paper=paper_table(paper(rows, methods, run_dir)),
        partial=_partial(progress),
        figures=_figures(rows, methods, run_dir, partial=bool(_partial(progress))),
        mappers=_mappers(run_dir),
        coverage=_coverage(made["coverage"], styles),
        provenance=provenance(rows),
        config=_config(run_dir),
        audited=audited,
        findings=findings,
        explorer=explorer(rows, run_dir),
        methods=[{"id": m, **_look(look), "main": m in main} for m, look in styles.items()],
        subject=methods.only("subject"),
        names={role: methods.label(role) for role in ("subject", "oracle")},
        cards=[methods.cards[m] for m in methods.ids("oracle", "subject", "control", "crossed")],
        version=__version__,
    )
    files.write_text(out, page)


def page_template(name: str) -> Template:
    """A page's template by its file's name."""
    environment = Environment(
        loader=PackageLoader("proxykv.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _beyond(rows: pd.DataFrame, positions: Mapping[str, int]) -> Iterator[str]:
    """What is to be said of contexts that are longer than a family's models have positions."""
    for family, longest in rows.groupby("family").context_tokens.max().items():
        if longest > (known := positions.get(family, longest)):
            yield f"{family}: contexts of up to {longest:,} tokens, models of {known:,} positions."


def _facts(rows: pd.DataFrame) -> dict[str, str]:
    pairs = rows.loc[rows.proxy != "", ["target", "proxy"]].drop_duplicates()
    contexts = rows[["family", "benchmark", "task", "context_id"]].drop_duplicates()
    questions = rows[[*contexts.columns, "question"]].drop_duplicates()
    return {
        "Model pairs": "; ".join(f"{t} scored by {p}" for t, p in pairs.itertuples(index=False))
        or "–",
        "Benchmarks": ", ".join(sorted(rows.benchmark.unique())),
        "Tasks": ", ".join(sorted(rows.task.unique())),
        "Contexts": f"{len(contexts)} ({len(questions)} questions, "
        f"{_span(rows.context_tokens)} tokens)",
        "Retentions": ", ".join(f"{rho:g}" for rho in sorted(rows.retention.unique())),
        "Protocol": rows.protocol.iloc[0].replace("_", "-"),
        "Device": "; ".join(
            f"{d}, {t}, kernels: {k}, {n} thread{'s' * (n != 1)}"
            for d, t, k, n in rows[["device", "dtype", "kernels", "threads"]]
            .drop_duplicates()
            .itertuples(index=False)
        ),
        "Answers": f"{len(rows)}, made {_span(rows.created.str[:10], ' to ')}",
    }


def _partial(progress: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How much of an unfinished run is done, and its other jobs in words; empty if all are done."""
    missing = [record for record in progress if record["state"] != "done"]
    if not missing:
        return {}
    jobs = []
    for record in missing:
        where = [record[part] for part in ("family", "benchmark", "task", "scan") if part in record]
        kind = "contexts" if "contexts" in record else "requests"
        planned = "?" if record["of"] is None else record["of"]
        jobs.append(f"{' · '.join(where)}: {record['state']}, {record[kind]} of {planned} {kind}")
    return {"done": len(progress) - len(missing), "planned": len(progress), "jobs": jobs}


def _boards(made: dict[str, pd.DataFrame], styles: dict[str, Look]) -> list[dict[str, Any]]:
    boards = []
    for i, (key, board) in enumerate(made["leaderboard"].groupby(CELL)):
        tasks, summary = (
            made[name][(made[name][CELL] == list(key)).all(axis=1)]
            for name in ("per_task", "summary")
        )
        title = " · ".join(map(str, key))
        ranked = {method: styles[method] for method in plots.ranking(board)}
        boards.append(
            {
                "title": title,
                "pooled": cells.pooled(
                    summary,
                    METRICS,
                    id=f"pooled-{i}",
                    caption=f"{title}, retentions pooled",
                    styles=ranked,
                ),
                "leaderboard": cells.matrix(
                    board, METRICS, id=f"board-{i}", caption=title, styles=ranked
                ),
                "cost": _quality_cost(made["quality_cost"], key, styles, f"cost-{i}", title),
                "tasks": cells.matrix(
                    tasks,
                    FIXED_METRICS if tasks.fixed.notna().any() else TASK_METRICS,
                    id=f"tasks-{i}",
                    caption=f"{title}, task by task",
                    styles=styles,
                    lead=["task"],
                ),
            }
        )
    return boards


def _quality_cost(
    table: pd.DataFrame, cell: Any, styles: dict[str, Look], id: str, title: str
) -> Table:
    """The table of quality against cost of one family and benchmark, cheapest first."""
    part = table[(table[CELL] == list(cell)).all(axis=1)]
    interval = "{} [{}, {}]".format
    shown = part[["method", "prefills", "operations", "seconds"]].assign(
        recovery=_joined(part, "recovery", "recovery", interval),
        kl=_joined(part, "kl", "kl", interval),
        score=_joined(part, "mean", "ci", interval),
        contexts=part.n_contexts,
    )
    show = {
        "method": _labels(styles),
        "prefills": lambda value: number(value, 2),
        "operations": "{:.3g}".format,
        "seconds": number,
    }
    caption = f"{title}, ρ ≤ {LOW_RETENTION}: quality against cost"
    return cells.plain(shown, id=id, caption=caption, styles=styles, show=show)


def _joined(table: pd.DataFrame, value: str, interval: str, text: Callable[..., str]) -> list[str]:
    """A value with its interval, as text, for each line of a table."""
    columns = table[[value, f"{interval}_low", f"{interval}_high"]]
    return [text(*map(number, line)) for line in columns.itertuples(index=False)]


def _paired(table: pd.DataFrame, styles: dict[str, Look]) -> list[Table]:
    kinds = {"score": "Score (higher is better)", "kl": "KL in nats per token (lower is better)"}
    if table.group.nunique() == 1:
        table = table.drop(columns="group")
    parts = {metric: table[table.metric == metric].drop(columns="metric") for metric in kinds}
    return [
        _differences(parts[metric], f"paired-{metric}", "Paired differences", styles, title)
        for metric, title in kinds.items()
    ]


def _differences(
    table: pd.DataFrame, id: str, caption: str, styles: dict[str, Look], metric: str = ""
) -> Table:
    """Lines of comparisons; where one family and benchmark has all, their names are left out."""
    if table.groupby(CELL).ngroups == 1:
        table = table.drop(columns=CELL)
    # The reference is the method whose colour marks the row.
    part = table.rename(columns={"method": "minuend", "reference": "method"})
    signed = dict.fromkeys(("difference", "ci_low", "ci_high"), _signed)
    show = signed | dict.fromkeys(("p", "p_holm"), _p) | {"mde": number}
    show |= {"method": _labels(styles), "minuend": _labels(styles), "retention": cells.pretty}
    made = cells.plain(part, id=id, caption=caption, styles=styles, show=show)
    names = {"minuend": "method", "method": "minus"}
    heads = [names.get(head, head) for head in made.heads]
    return replace(made, heads=heads, metric=metric)


def _coverage(table: pd.DataFrame, styles: dict[str, Look]) -> dict[str, Any]:
    gaps = table[(table.missing > 0) | (table.truncated > 0)]
    show = {"method": _labels(styles), "retention": "{:g}".format}
    return {
        "done": int(table.contexts.sum()),
        "expected": int(table.expected.sum()),
        "truncated": int(table.truncated.sum()),
        "gaps": cells.plain(
            gaps, id="coverage", caption="Missing or truncated", styles=styles, show=show
        ),
    }


def _figures(
    rows: pd.DataFrame, methods: MethodCards, run_dir: Path, *, partial: bool
) -> list[dict[str, Any]]:
    figures = []
    for name in plots.names():
        figure = plots.draw(name, rows, methods, run_dir, partial=partial)
        if figure is None:
            continue
        title, caption = plots.describe(name)
        label = f"{title}; the numbers are in the tables of this page"
        svg = inline(render(figure, [".svg"])[".svg"], name, label)
        shown = {"name": name, "title": title, "caption": caption, "svg": svg}
        figures.append(shown | {"crowded": crowded(figure)})
    return figures


def _mappers(run_dir: Path) -> dict[str, dict[str, Any]]:
    """The cards of trained mappers: `family · method` to the card's content."""
    return {
        f"{path.parts[-3]} · {path.parts[-2]}": json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((run_dir / "mappers").glob("*/*/card.json"))
    }


def _config(run_dir: Path) -> str:
    path = run_dir / "config.json"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _look(look: Look) -> dict[str, str]:
    return {"label": look.label, "color": look.color, "role": look.role}


def _span(values: pd.Series, to: str = "–") -> str:
    low, high = values.min(), values.max()
    return str(low) if low == high else f"{low}{to}{high}"


def _labels(styles: dict[str, Look]) -> Callable[[str], str]:
    return lambda method: styles[method].label


def _signed(value: float) -> str:
    return number(value, sign=True)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value)
