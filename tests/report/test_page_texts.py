"""Texts of others on the page: escaped, drawn whatever the outcome, shown by a script as text."""

# pandas ships no types; the unions that pyright infers for it are too wide to check against.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lxml import html
from lxml.html import HtmlElement
from rows_fixture import write_kept, write_run

from proxykv.config import catalog
from proxykv.report import build_report
from proxykv.report import explorer as explorer_module
from proxykv.report.explorer import LONGEST, QUESTIONS_PER_TASK, examples, explorer
from proxykv.report.tables.columns import ROW_KEY

SCRIPT = catalog.ROOT / "proxykv" / "report" / "templates" / "script.js"
HOSTILE = "</script><script>alert(1)</script></pre><hostile onerror=alert(2)>\"'&amp;"


def stored_examples(document: HtmlElement) -> list[dict[str, Any]]:
    return json.loads(document.xpath("//script[@id='data']")[0].text)["examples"]


def test_examples_are_the_rows_of_their_questions(document: HtmlElement, rows: pd.DataFrame):
    found = stored_examples(document)
    assert [example["task"] for example in found] == ["single"] * 4 + ["vt"] * 4
    for example in found:
        of_question = rows[
            (rows.task == example["task"])
            & (rows.context_id == example["context"])
            & (rows.question == example["question"])
        ]
        assert example["references"] == list(of_question.references.iloc[0])
        assert [
            (a["method"], a["retention"], a["text"], a["score"], a["kl"])
            for a in example["answers"]
        ] == [
            (r.method, r.retention, r.prediction, round(r.score, 4), round(r.kl, 4))
            for r in of_question.itertuples()
        ]


def test_examples_are_drawn_whatever_the_outcome(rows: pd.DataFrame):
    def drawn(rows: pd.DataFrame) -> list[tuple[str, str, int]]:
        return [(e["task"], e["context"], e["question"]) for e in examples(rows)]

    assert drawn(rows) == drawn(rows.assign(score=1 - rows.score, prediction="another"))
    no_method_answers = (rows.question == 1) & (rows.context_id.str[-1].astype(int) % 2 == 0)
    assert drawn(rows) == drawn(rows.assign(score=rows.score.mask(no_method_answers, 0.0)))
    assert drawn(rows) == drawn(rows.sample(frac=1, random_state=1))
    assert len(set(drawn(rows))) == 2 * QUESTIONS_PER_TASK
    assert len({question for _, _, question in drawn(rows)}) > 1


def test_a_question_with_a_single_answer_is_an_example(rows: pd.DataFrame):
    method, retention = rows[["method", "retention"]].iloc[0]
    alone = rows[(rows.method == method) & (rows.retention == retention)]
    found = examples(alone.assign(context_tokens=77))
    assert {len(example["answers"]) for example in found} == {1}
    assert {example["tokens"] for example in found} == {77}


def test_long_answers_are_cut_and_unknown_kl_is_left_out(rows: pd.DataFrame):
    long = rows.assign(prediction="x" * (LONGEST + 1), kl=np.nan)
    answers = [answer for example in examples(long) for answer in example["answers"]]
    assert {answer["text"] for answer in answers} == {
        "x" * LONGEST + f" … ({LONGEST + 1} characters)"
    }
    assert not any("kl" in answer for answer in answers)
    untruncated = examples(rows.assign(prediction="x" * LONGEST))
    assert {a["text"] for e in untruncated for a in e["answers"]} == {"x" * LONGEST}


# --- kept tokens ----------------------------------------------------------------------------------


def test_where_contexts_are_stored_questions_are_drawn_from_them(
    rows: pd.DataFrame, tmp_path: Path
):
    write_kept(tmp_path, rows[rows.context_id.isin(["vt-001", "vt-004"])], ["4", "x" * 2000])
    found = explorer(rows, tmp_path)
    drawn = {(e["task"], e["context"]) for e in found["examples"]}
    assert {context for task, context in drawn if task == "vt"} == {"vt-001", "vt-004"}
    assert len({context for task, context in drawn if task == "single"}) > 1
    assert {e["kept"] for e in found["examples"] if e["task"] == "vt"} == set(found["contexts"])
    one = found["contexts"]["tiny · tiny · vt · vt-001"]
    assert one["tokens"] == 100 and one["questions"][0] == "4?"
    assert one["questions"][1].endswith(" … (2001 characters)")
    pruned = rows[(rows.context_id == "vt-001") & (rows.retention < 1) & (rows.question == 0)]
    points = {(k["method"], k["retention"]) for k in one["kept"]}
    assert points == set(zip(pruned.method, pruned.retention, strict=True))
    assert all(k["share"] == k["retention"] for k in one["kept"])


def test_of_tokens_kept_twice_the_last_count_and_those_of_other_methods_do_not(
    rows: pd.DataFrame, tmp_path: Path
):
    vt = rows[rows.context_id == "vt-001"]
    write_kept(tmp_path, vt.assign(method_digest="old"), ["4", "5"])
    assert explorer(rows, tmp_path)["contexts"]["tiny · tiny · vt · vt-001"]["kept"] == []
    write_kept(tmp_path, vt, ["4", "5"])
    once = explorer(rows, tmp_path)
    write_kept(tmp_path, vt, ["4", "5"])
    assert explorer(rows, tmp_path) == once


def test_the_page_holds_the_tokens_of_low_retentions_first(
    rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_kept(tmp_path, rows[rows.context_id == "vt-001"], ["4", "5"])
    methods = rows.method.nunique() - 1
    monkeypatch.setattr(explorer_module, "KEPT", 20 * (methods + 1))
    (one,) = explorer(rows, tmp_path)["contexts"].values()
    assert [k["retention"] for k in one["kept"]] == [0.05] * methods + [0.3]


# --- texts of others ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:constrained_layout")  # titles are long here
def test_nothing_that_a_run_holds_becomes_markup(rows: pd.DataFrame, tmp_path: Path):
    columns = ("family", "benchmark", "task", "context_id", "prediction", "target", "proxy",
               "device", "versions", "commit")  # fmt: skip
    hostile = rows.assign(**dict.fromkeys(columns, HOSTILE)).drop_duplicates(ROW_KEY)
    hostile["references"] = [[HOSTILE]] * len(hostile)
    hostile["truncated"] = True
    run = tmp_path / HOSTILE.replace("/", "")
    write_run(run, rows)
    path = run / "hostile.parquet"
    hostile.to_parquet(path)
    cards = json.loads((run / "methods.json").read_text())
    for card in cards["cards"].values():
        card |= {"label": f"{card['label']}{HOSTILE}", "about": HOSTILE, "shows": HOSTILE}
    (run / "methods.json").write_text(json.dumps(cards))
    (run / "config.json").write_text(json.dumps({"run": HOSTILE, "methods": []}))
    for card in run.glob("mappers/*/*/card.json"):
        card.write_text(json.dumps({HOSTILE: HOSTILE, "listed": [HOSTILE]}))
    build_report([path], run, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "<hostile" not in text
    document = html.document_fromstring(text)
    assert not document.xpath("//hostile | //@onerror")
    assert len(document.xpath("//script")) == 2
    # It is shown as text: what was written is what is read.
    assert document.xpath("//h1")[0].text_content() == HOSTILE.replace("/", "")
    assert HOSTILE in document.xpath("//pre")[0].text_content().replace('\\"', '"')
    assert any(HOSTILE in a["text"] for e in stored_examples(document) for a in e["answers"])


def test_the_script_writes_text_only():
    code = re.sub(r"//.*", "", SCRIPT.read_text("utf-8"))
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment"
    assert not re.findall(rf"{ways}|DOMParser|\beval\(|\bFunction\(|srcdoc|setHTML", code)


class _Page(HTMLParser):
    """Collects what a browser would load, and checks that tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_loads_nothing(page: str):
    parser = _Page()
    parser.feed(page)
    assert not parser.open
    assert len(parser.ids) == len(set(parser.ids))
    assert all(load.startswith(("#", "data:")) for load in parser.loads)
    assert "@import" not in page and not re.search(r"url\((?!#)", page) and "fetch(" not in page
