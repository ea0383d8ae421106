"""A run and its page, for the tests that read the page back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lxml import html
from lxml.html import HtmlElement
from rows_fixture import make_rows, write_run

from proxykv.config import catalog

METHODS = ("kvzip", "proxykv", "snapkv", "random", "prior", "proxykv_shuffled")


@pytest.fixture(scope="session")
def rows() -> pd.DataFrame:
    made = make_rows(
        contexts=6, methods=METHODS, retentions=(0.05, 0.3, 0.5), tasks=("single", "vt")
    )
    # Scores between 0 and 1, and a control that is best of all where little is pruned.
    rng = np.random.default_rng(7)
    made["score"] = (made.score + rng.integers(0, 5, len(made)) / 4) / 2
    made.loc[(made.method == "random") & (made.retention == 0.5), "score"] = 1.0
    made["context_tokens"] = np.where(made.context_id.str[-1].isin(["3", "4", "5"]), 1024, 256)
    return made


@pytest.fixture(scope="session")
def run_dir(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, with another one next to it."""
    results = tmp_path_factory.mktemp("results")
    write_run(results / "other", rows)
    for card in (results / "other").glob("mappers/*/*/card.json"):
        card.write_text('{"parameters": "of another run"}')
    write_run(results / "demo", rows)
    return results / "demo"


@pytest.fixture(scope="session")
def page(run_dir: Path) -> str:
    # In another process, to see what the report imports.
    code = (
        "import sys; from pathlib import Path; from proxykv.report import build_report;"
        f"run = Path({str(run_dir)!r}); rows = run.glob('rows/*/*/*.parquet');"
        "build_report(rows, run, run / 'report' / 'index.html');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=catalog.ROOT)
    return (run_dir / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def document(page: str) -> HtmlElement:
    return html.document_fromstring(page)
