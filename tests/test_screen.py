"""Decontamination: what counts as shared text, and what is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from proxykv.examples import Example, write_jsonl
from proxykv.screen import kept, ngrams, overlaps, require_clean, screen
from proxykv.spec import ConfigError, Run

TEXT = "a quick brown fox jumps over the lazy dog and runs away from it"


def example(name: str, context: str) -> Example:
    return Example(name, "task", context)


def test_ngrams_ignore_case_and_punctuation() -> None:
    assert ngrams("One, two -- THREE four.", 3) == [
        ("one", "two", "three"),
        ("two", "three", "four"),
    ]
    assert ngrams("One.", 3) == [("one",)]


def test_every_chinese_character_is_a_word() -> None:
    assert ngrams("机器学习 ok", 4) == [("机", "器", "学", "习"), ("器", "学", "习", "ok")]


def test_overlap_is_the_share_of_ngrams() -> None:
    train = [
        example("same", TEXT),
        example("half", "a quick brown fox x y"),
        example("new", "x y z w"),
    ]
    shares = overlaps(train, [example("test", TEXT.upper())], ngram=4)
    assert shares == {"same": 1.0, "half": pytest.approx(1 / 3), "new": 0.0}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    dataset: dict[str, Any] = {"benchmark": "tiny", "contexts": 2, "lengths": [64]}
    return Run(
        {
            "run": "r",
            "families": ["tiny"],
            "retentions": [0.1, 1.0],
            "methods": ["full", "prior"],
            "benchmarks": [{**dataset, "tasks": ["single"]}],
            "corpus": [{**dataset, "tasks": ["vt"]}],
            "decontamination": {"ngram": 4, "limit": 0.2},
        }
    )


def write(run: Run, split: str, contexts: dict[str, str]) -> None:
    (dataset,) = run.datasets("tiny", split)
    write_jsonl(dataset.path, [example(*pair) for pair in contexts.items()])


def test_shared_contexts_are_reported_and_left_out(run: Run) -> None:
    write(run, "train", {"a-1": TEXT, "a-2": "some words of its own, and no others"})
    write(run, "eval", {"b-1": f"before {TEXT} after"})
    report = json.loads(screen(run, "tiny").read_text("utf-8"))
    assert report == {
        "ngram": 4,
        "limit": 0.2,
        "contexts": 2,
        "dropped": {"a-1": 1.0},
        "largest_share_kept": 0.0,
    }
    files = [Path("a-1-0123456789ab.safetensors"), Path("a-2-0123456789ab.safetensors")]
    assert kept(files, dropped(run)) == files[1:]


def dropped(run: Run) -> list[str]:
    return json.loads(run.dropped("tiny").read_text("utf-8"))


def test_the_list_that_mappers_depend_on_is_written_only_if_it_changes(run: Run) -> None:
    write(run, "train", {"a-1": TEXT, "a-2": "some words of its own, and no others"})
    write(run, "eval", {"b-1": f"before {TEXT} after"})
    screen(run, "tiny")
    os.utime(run.dropped("tiny"), (1, 1))
    write(run, "eval", {"b-1": f"{TEXT} after", "b-2": "a task that shares no text"})
    screen(run, "tiny")
    assert dropped(run) == ["a-1"]
    assert run.dropped("tiny").stat().st_mtime == 1
    write(run, "eval", {"b-2": "some words of its own"})
    screen(run, "tiny")
    assert dropped(run) == ["a-2"]


def test_a_mapper_that_has_seen_what_is_dropped_now_is_refused(run: Run) -> None:
    write(run, "train", {"a-1": TEXT, "a-2": "some words of its own, and no others"})
    write(run, "eval", {"b-1": f"before {TEXT} after"})
    screen(run, "tiny")
    card = run.artefact_dir("tiny", "prior") / "card.json"
    card.parent.mkdir()
    card.write_text(json.dumps({"decontamination": {"dropped": []}}))
    with pytest.raises(ConfigError, match=r"prior: .* run the same command again"):
        require_clean(run, "tiny")
    card.write_text(json.dumps({"decontamination": {"dropped": ["a-1"]}}))
    require_clean(run, "tiny")


def test_a_corpus_of_evaluation_text_is_refused(run: Run) -> None:
    write(run, "train", {"a-1": TEXT})
    write(run, "eval", {"b-1": TEXT})
    with pytest.raises(ConfigError, match="all 1 contexts share text"):
        screen(run, "tiny")
