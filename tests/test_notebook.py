"""The notebook runs from top to bottom on the embedded pair."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from proxykv.config import catalog

NOTEBOOK = catalog.ROOT / "docs" / "how-to" / "compare-methods.ipynb"


def test_the_notebook_runs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(catalog.ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # tqdm misses widgets here
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    done = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": trained}})
    cells = [cell for cell in done.execute().cells if cell.cell_type == "code"]
    shown = [output for cell in cells for output in cell.outputs]
    assert [output.text for output in shown if output.output_type == "stream"] == []
    tables = [output.data["text/html"] for output in shown if "text/html" in output.data]
    assert len(tables) == 2
    assert all(name in table for table in tables for name in ("proxykv", "kvzip", "streaming"))
    assert any("image/png" in output.data for output in shown)


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
