"""A dataset's path and a prompt's hash change with everything that decides what is asked."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from valid_config import valid

from proxykv.benchmarks.examples import Example, Question
from proxykv.config.jobs import Dataset
from proxykv.config.paths import dropped, fitting_lists
from proxykv.config.run import Run
from proxykv.scoring.rows import prompt_hash

SOURCE = {"path": "here"}
ENTRY = {
    "benchmark": "longbench",
    "tasks": ["qasper"],
    "contexts": 3,
    "options": {"source": SOURCE, "longest": 900},
}


def dataset(section: str = "benchmarks", **changes: Any) -> Dataset:
    config = valid() | {"benchmarks": [ENTRY]}
    entry = {**config[section][0], **changes}
    (only,) = Run(config | {section: [entry]}).datasets(
        "tiny", "eval" if section == "benchmarks" else "train"
    )
    return only


def path(section: str = "benchmarks", **changes: Any) -> str:
    return str(dataset(section, **changes).path)


@pytest.mark.parametrize(
    "changes",
    [
        {"contexts": 4},
        {"seed": 7},
        {"tasks": ["hotpotqa"]},
        {"options": {"source": SOURCE}},
        {"options": {"source": SOURCE, "longest": 901}},
        {"options": {"source": {"path": "there"}, "longest": 900}},
        {"options": {"source": {"hub": "here", "revision": "0" * 40}, "longest": 900}},
        {"options": {"source": {"hub": "here", "revision": "1" * 40}, "longest": 900}},
    ],
)
def test_settings_of_an_entry_are_in_the_path(changes: dict[str, Any]) -> None:
    assert path(**changes) != path()


def test_a_text_source_is_in_the_path() -> None:
    def corpus(**changes: Any) -> str:
        source = {"kind": "stdlib", "files": "*.py", **changes}
        return path("corpus", benchmark="text", tasks=["code"], options={"sources": [source]})

    assert corpus(files="a*.py") != corpus()
    assert path("corpus", lengths=[256]) != path("corpus")


@pytest.mark.parametrize(
    "changes",
    [{"split": "train"}, {"contexts": None}, {"lengths": (64,)}, {"max_context": 99}, {"seed": 9}],
)
def test_what_a_family_and_a_run_decide_is_in_the_path(changes: dict[str, Any]) -> None:
    assert dataclasses.replace(dataset(), **changes).path != dataset().path


def test_what_changes_no_context_changes_no_path() -> None:
    assert path(shards=3) == path()


def test_a_method_waits_for_what_it_is_fitted_on_and_for_nothing_else() -> None:
    local = {"id": "local", "base": "proxykv", "params": {"signal": "local"}}
    run = Run(valid() | {"methods": ["full", "prior", "surrogate", "proxykv", local]})
    kinds = {
        method: [path.name.rsplit("-", 4)[0] for path in fitting_lists(run, "tiny", method)]
        for method in run.fitted_ids
    }
    assert kinds == {
        "prior": ["scores"],
        "surrogate": ["scores", "inputs"],
        "proxykv": ["scores"],
        "local": ["scores", "signal-local"],
    }


def test_the_list_of_dropped_contexts_is_named_by_the_corpus_and_how_it_is_screened() -> None:
    def name(**changes: Any) -> str:
        return dropped(Run(valid() | changes), "tiny").name

    longer = [{**valid()["corpus"][0], "contexts": 5}]
    screened = {"decontamination": {"ngram": 5, "limit": 0.5}}
    assert len({name(), name(corpus=longer), name(**screened)}) == 3
    assert name(benchmarks=[{**valid()["benchmarks"][0], "contexts": 5}]) == name()


QUESTION = Question("q", ("a",), 5)
EXAMPLE = Example("c", "single", "text", (QUESTION,))


def test_the_chat_flag_is_in_the_hash() -> None:
    plain = dataclasses.replace(EXAMPLE, chat=False)
    assert prompt_hash(plain, QUESTION) != prompt_hash(EXAMPLE, QUESTION)


def test_the_context_is_in_the_hash() -> None:
    other = dataclasses.replace(EXAMPLE, context="another")
    assert prompt_hash(other, QUESTION) != prompt_hash(EXAMPLE, QUESTION)


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "p"},
        {"references": ("b",)},
        {"references": ("a", "b")},
        {"max_new_tokens": 6},
        {"answer_start": "The"},
        {"stop": ("\n",)},
        {"meta": {"labels": ["a"]}},
        {"history": (("q0", "a0"),)},
    ],
)
def test_every_part_of_a_question_is_in_the_hash(changes: dict[str, Any]) -> None:
    assert set(changes) <= {field.name for field in dataclasses.fields(Question)}
    other = dataclasses.replace(QUESTION, **changes)
    assert prompt_hash(EXAMPLE, other) != prompt_hash(EXAMPLE, QUESTION)
