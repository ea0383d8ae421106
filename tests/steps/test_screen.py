"""Decontamination: what counts as shared text, and what is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from proxykv.benchmarks.examples import Example, write_jsonl
from proxykv.config import paths
from proxykv.config.run import Run
from proxykv.mapper.corpus import context_name, contexts, fitted_on
from proxykv.runtime.errors import ConfigError
from proxykv.steps.screen import kept, ngrams, overlaps, require_clean, screen

TEXT = "a quick brown fox jumps over the lazy dog and runs away from it"
OWN = "some words of its own, and no others"


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
    names = [context_name(one) for one in train]
    assert shares == dict(zip(names, (1.0, pytest.approx(1 / 3), 0.0), strict=True))


def test_an_ngram_counts_as_often_as_it_occurs() -> None:
    (share,) = overlaps([example("train", "one one one x")], [example("test", "one")], 1).values()
    assert share == 3 / 4


def test_contexts_of_one_id_and_different_text_are_distinguished() -> None:
    """Two parts of a corpus can be the same task made of other sources."""
    train = [example("0001", TEXT), example("0001", "x y z w")]
    assert list(overlaps(train, [example("test", TEXT)], ngram=4).values()) == [1.0, 0.0]


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
            "training": {"val_contexts": 1},
            "decontamination": {"ngram": 4, "limit": 0.2},
        }
    )


def write(run: Run, split: str, contexts: dict[str, str]) -> None:
    (dataset,) = run.datasets("tiny", split)
    write_jsonl(dataset.path, [example(*pair) for pair in contexts.items()])


def test_shared_contexts_are_reported_and_left_out(run: Run) -> None:
    texts = {"a-1": TEXT, "a-2": OWN}
    write(run, "train", texts)
    names = [context_name(example(*pair)) for pair in texts.items()]
    write(run, "eval", {"b-1": f"before {TEXT} after"})
    report = json.loads(screen(run, "tiny").read_text("utf-8"))
    assert report == {
        "ngram": 4,
        "limit": 0.2,
        "contexts": 2,
        "dropped": {names[0]: 1.0},
        "largest_share_kept": 0.0,
    }
    files = [Path(f"{name}.safetensors") for name in names]
    assert kept(files, dropped(run)) == files[1:]


@pytest.mark.parametrize(("limit", "kept_shares"), [(0.5, [0.5, 0.25]), (0.49, [0.25])])
def test_a_context_is_dropped_only_above_the_limit(
    run: Run, limit: float, kept_shares: list[float]
) -> None:
    """Of four runs of words each, two, one and all are in an evaluation context."""
    run = Run({**run.config, "decontamination": {"ngram": 1, "limit": limit}})
    texts = {"half": "one two x y", "quarter": "one a b c", "all": "one two two one"}
    write(run, "train", texts)
    write(run, "eval", {"b-1": "one two"})
    report = json.loads(screen(run, "tiny").read_text("utf-8"))
    assert report["largest_share_kept"] == max(kept_shares)
    left_out = {name.partition("-")[0] for name in dropped(run)}
    assert left_out == {"all"} | ({"half"} if limit < 0.5 else set())
    assert sorted(report["dropped"]) == dropped(run)


def dropped(run: Run) -> list[str]:
    return json.loads(paths.dropped(run, "tiny").read_text("utf-8"))


def test_the_list_that_mappers_depend_on_is_written_only_if_it_changes(run: Run) -> None:
    write(run, "train", {"a-1": TEXT, "a-2": OWN})
    write(run, "eval", {"b-1": f"before {TEXT} after"})
    screen(run, "tiny")
    os.utime(paths.dropped(run, "tiny"), (1, 1))
    write(run, "eval", {"b-1": f"{TEXT} after", "b-2": "a task that shares no text"})
    screen(run, "tiny")
    assert dropped(run) == [context_name(example("a-1", TEXT))]
    assert paths.dropped(run, "tiny").stat().st_mtime == 1
    write(run, "eval", {"b-2": "some words of its own"})
    screen(run, "tiny")
    assert dropped(run) == [context_name(example("a-2", OWN))]


def test_a_mapper_that_has_seen_what_is_dropped_now_is_refused(run: Run) -> None:
    write(run, "train", {"a-1": TEXT, "a-2": OWN})
    write(run, "eval", {"b-1": f"before {TEXT} after"})
    screen(run, "tiny")
    card = paths.fitted_dir(run, "tiny", "prior") / "card.json"
    card.parent.mkdir()
    card.write_text(json.dumps({"decontamination": {"dropped": []}}))
    with pytest.raises(ConfigError, match=r"prior: .* run the same command again"):
        require_clean(run, "tiny")
    card.write_text(json.dumps({"decontamination": {"dropped": dropped(run)}}))
    require_clean(run, "tiny")
    paths.dropped(run, "tiny").unlink()
    with pytest.raises(ConfigError, match=r"dropped-\w+\.json: missing; run the same"):
        require_clean(run, "tiny")
    card.unlink()
    require_clean(run, "tiny")  # of an unfinished run


def test_what_shares_text_with_held_out_contexts_is_left_out(run: Run) -> None:
    corpus = [{**run.config["corpus"][0], "held_out": 1}]
    run = Run({**run.config, "corpus": corpus})
    texts = {"a-1": TEXT, "a-2": OWN, "a-3": f"{TEXT} again"}
    write(run, "train", texts)
    write(run, "eval", {"b-1": "none of them is here"})
    report = json.loads(screen(run, "tiny").read_text("utf-8"))
    assert report["contexts"] == 2
    assert list(report["dropped"]) == [context_name(example("a-1", TEXT))]


def test_a_corpus_of_evaluation_text_is_refused(run: Run) -> None:
    write(run, "train", {"a-1": TEXT})
    write(run, "eval", {"b-1": TEXT})
    with pytest.raises(ConfigError, match="all 1 contexts share text"):
        screen(run, "tiny")


def test_contexts_of_a_benchmark_that_decides_their_length_have_none(run: Run) -> None:
    """As those of a benchmark that someone adds; no shipped one with such contexts trains."""
    published = {"benchmark": "longbench", "tasks": ["qasper"], "contexts": 2, "held_out": 1}
    run = Run({**run.config, "corpus": [published]}, made=True)
    texts = {"a-1": TEXT, "a-2": OWN}
    write(run, "train", texts)
    first, last = contexts(run, "tiny")
    assert [first.length, last.length] == [None, None]
    assert fitted_on(run, "tiny", run.methods["prior"]) == {first.name}
    assert [first.held_out, last.held_out] == [False, True]
