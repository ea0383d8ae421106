"""Every mistake in a config is one clear line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from valid_config import Config, valid

from proxykv.config.check import config_problems
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError


def change(**parts: Any) -> Callable[[Config], None]:
    return lambda config: config.update(parts)


def remove(key: str) -> Callable[[Config], None]:
    return lambda config: config.pop(key)


def dataset(section: str = "benchmarks", **parts: Any) -> Callable[[Config], None]:
    return lambda config: config[section][0].update(parts)


def method(**parts: Any) -> Callable[[Config], None]:
    return change(methods=["full", {"id": "mine", **parts}])


def compare(*groups: list[list[str]]) -> Callable[[Config], None]:
    return change(comparisons=[{"group": "more", "pairs": pairs} for pairs in groups])


MISTAKES: dict[str, tuple[Callable[[Config], Any], str]] = {
    "unknown key": (
        change(retention=[0.1]),
        "config: unknown key 'retention'; did you mean 'retentions'?",
    ),
    "unknown key inside": (
        dataset(length=[9]),
        "config.benchmarks[0]: unknown key 'length'; did you mean 'lengths'?",
    ),
    "missing key": (remove("families"), "config: 'families' is a required property"),
    "missing key inside": (
        lambda config: config["corpus"][0].pop("tasks"),
        "config.corpus[0]: 'tasks' is a required property",
    ),
    "unknown method": (
        change(methods=["full", "snapvk"]),
        "config.methods: unknown method 'snapvk'; did you mean 'snapkv'?",
    ),
    "unknown base": (
        change(methods=["full", {"id": "mine", "base": "kvzipp"}]),
        "config.methods: unknown method 'kvzipp'; did you mean 'kvzip'?",
    ),
    "base that comes later": (
        change(
            methods=[
                "full",
                {"id": "few_head", "base": "few", "scope": "head"},
                {"id": "few", "base": "streaming", "params": {"sinks": 1}},
            ]
        ),
        "config.methods[1]: base 'few' is listed after it; move 'few' up",
    ),
    "itself as the base": (
        change(methods=["full", {"id": "kvzipp", "base": "kvzipp"}]),
        "config.methods: unknown method 'kvzipp'; did you mean 'kvzip'?",
    ),
    "misspelt entry as the base": (
        change(
            methods=[
                "full",
                {"id": "few_sinks", "base": "streaming", "params": {"sinks": 1}},
                {"id": "mine", "base": "few_sink"},
            ]
        ),
        "config.methods: unknown method 'few_sink'; did you mean 'few_sinks'?",
    ),
    "unknown base of a base": (
        change(methods=["full", {"id": "mine", "base": "kvzipp"}, {"id": "ours", "base": "mine"}]),
        "config.methods: unknown method 'kvzipp'; did you mean 'kvzip'?",
    ),
    "parameter that an inherited press lacks": (
        change(
            methods=[
                "full",
                {"id": "snap", "base": "kvpress:SnapKVPress"},
                {"id": "snap_wide", "base": "snap", "params": {"windw_size": 8}},
            ]
        ),
        "config.methods[2].params: unknown key 'windw_size'; did you mean 'window_size'?",
    ),
    "part that the corpus lacks": (
        method(base="prior", corpus=["singel"]),
        "config.methods[1].corpus: the corpus has no 'singel'; did you mean 'single'?",
    ),
    "length that the corpus lacks": (
        method(base="prior", lengths=[256]),
        "config.methods[1].lengths: the corpus has no '256'; known: 128",
    ),
    "part for a method that is not fitted": (
        method(base="kvzip", corpus=["single"]),
        "config.methods[1]: 'kvzip' is not fitted; remove 'corpus'",
    ),
    "contexts held out of what is evaluated": (
        dataset(held_out=1),
        "config.benchmarks[0]: 'held_out' is for the corpus; remove it",
    ),
    "bad scope": (
        change(methods=["full", {"id": "mine", "base": "kvzip", "scope": "token"}]),
        "config.methods[1].scope: 'token' is not one of ['global', 'layer', 'head', 'custom']",
    ),
    "unknown key of a method": (
        change(methods=["full", {"id": "mine", "base": "kvzip", "parms": {}}]),
        "config.methods[1]: unknown key 'parms'; did you mean 'params'?",
    ),
    "unknown parameter": (
        method(base="streaming", params={"sink": 9}),
        "config.methods[1].params: unknown key 'sink'; did you mean 'sinks'?",
    ),
    "parameter of another type": (
        method(base="streaming", params={"sinks": "4"}),
        "config.methods[1].params.sinks: '4' is not of type 'integer'",
    ),
    "parameter that is no choice": (
        method(base="snapkv", params={"preset": "orignal"}),
        "config.methods[1].params.preset: 'orignal' is not one of ['original', 'kvpress']",
    ),
    "parameter in the way of those that are given": (
        method(base="streaming", params={"bench": 1}),
        "config.methods[1].params: unknown key 'bench'; known: sinks",
    ),
    "setting of training among the parameters": (
        method(base="proxykv", params={"step": 9}),
        "config.methods[1].params: unknown key 'step'; did you mean 'steps'?",
    ),
    "setting of training of another type": (
        method(base="proxykv", params={"lr": "1e-3"}),
        "config.methods[1].params.lr: '1e-3' is not of type 'number'",
    ),
    "unknown term of the loss": (
        change(training={"weights": {"bim": 10}}),
        "config.training.weights: unknown key 'bim'; did you mean 'bin'?",
    ),
    "unknown field of the mapper": (
        change(training={"mapper": {"widht": 16}}),
        "config.training.mapper: unknown key 'widht'; did you mean 'width'?",
    ),
    "unknown term among a method's parameters": (
        method(base="proxykv", params={"weights": {"msee": 1}}),
        "config.methods[1].params.weights: unknown key 'msee'; did you mean 'mse'?",
    ),
    "class of no module": (
        method(base="nowhere.methods:Mine"),
        "config.methods[1]: no module 'nowhere.methods', in the checkout or installed; "
        "'nowhere.methods:Mine' needs it",
    ),
    "no such class": (
        method(base="baselines.random:Chance"),
        "config.methods[1]: baselines.random has no 'Chance'",
    ),
    "parameter of a class of the user's": (
        method(base="baselines.random:Random", params={"seeds": 1}),
        "config.methods[1].params: unknown key 'seeds'; known: none",
    ),
    "unknown press": (
        change(methods=["full", "kvpress:ExpectdAttentionPress"]),
        "config.methods[1]: kvpress has no 'ExpectdAttentionPress'; "
        "did you mean 'ExpectedAttentionPress'?",
    ),
    "parameter of a press": (
        method(base="kvpress:PyramidKVPress", scope="custom", params={"windw_size": 8}),
        "config.methods[1].params: unknown key 'windw_size'; did you mean 'window_size'?",
    ),
    "parameter of a press that the retentions set": (
        method(base="kvpress:SnapKVPress", params={"compression_ratio": 0.5}),
        "config.methods[1].params: unknown key 'compression_ratio'; "
        "known: kernel_size, window_size",
    ),
    "part of a press missing": (
        change(methods=["full", "kvpress:AdaKVPress"]),
        "config.methods[1].params: 'press' is a required property",
    ),
    "unknown option of a benchmark": (
        dataset(options={"sources": []}),
        "config.benchmarks[0].options: unknown key 'sources'; known: none",
    ),
    "option of a benchmark missing": (
        dataset("corpus", benchmark="text", tasks=["prose"]),
        "config.corpus[0].options: 'sources' is a required property",
    ),
    "size that a benchmark needs": (
        lambda config: config["benchmarks"][0].pop("contexts"),
        "config.benchmarks[0]: tiny needs 'contexts'",
    ),
    "option of another type": (
        dataset("corpus", benchmark="text", tasks=["prose"], options={"sources": "essays"}),
        "config.corpus[0].options.sources: 'essays' is not of type 'array'",
    ),
    "unknown family": (
        change(families=["tini"]),
        "config.families: no file config/families/tini.yaml; did you mean 'tiny'?",
    ),
    "unknown benchmark": (
        dataset(benchmark="tinyy"),
        "config.benchmarks[0]: unknown benchmark 'tinyy'; did you mean 'tiny'?",
    ),
    "unknown task": (
        dataset(tasks=["singel"]),
        "config.benchmarks[0]: tiny has no task 'singel'; did you mean 'single'?",
    ),
    "unknown task of the corpus": (
        dataset("corpus", tasks=["multikeys"]),
        "config.corpus[0]: tiny has no task 'multikeys'; did you mean 'multikey'?",
    ),
    "comparison of an unknown method": (
        compare([["kvzip", "proxykw"]]),
        "config.comparisons[0]: the run has no method 'proxykw'; did you mean 'proxykv'?",
    ),
    "comparison with itself": (
        compare([["kvzip", "kvzip"]]),
        "config.comparisons[0]: 'kvzip' is compared with itself",
    ),
    "comparison listed twice": (
        compare([["kvzip", "proxykv"], ["kvzip", "proxykv"]]),
        "config.comparisons[0]: 'kvzip - proxykv' is listed 2 times",
    ),
    "comparison of three": (
        compare([["kvzip", "proxykv", "full"]]),
        "config.comparisons[0].pairs[0]: ['kvzip', 'proxykv', 'full'] is too long",
    ),
    "group listed twice": (
        compare([["kvzip", "proxykv"]], [["proxykv", "kvzip"]]),
        "config.comparisons: 'more' is listed 2 times",
    ),
    "no full": (
        change(methods=["kvzip"]),
        "config.methods: 'full' is missing; every method is compared with it",
    ),
    "no full cache": (
        change(retentions=[0.1, 0.2]),
        "config.retentions: 1.0 (the full cache) is missing; the others are compared with it",
    ),
    "retention 0": (
        change(retentions=[0, 1.0]),
        "config.retentions[0]: 0 is less than or equal to the minimum of 0",
    ),
    "retention above 1": (
        change(retentions=[1.0, 1.2]),
        "config.retentions[1]: 1.2 is greater than the maximum of 1",
    ),
    "retention NaN": (
        change(retentions=[float("nan"), 1.0]),
        "config.retentions[0]: nan is not a share of the context in (0, 1]",
    ),
    "retention as text": (
        change(retentions=["10%", 1.0]),
        "config.retentions[0]: '10%' is not of type 'number'",
    ),
    "retention twice": (
        change(retentions=[0.1, 1.0, 1]),
        "config.retentions: 1.0 is listed 2 times",
    ),
    "method twice": (
        change(methods=["full", "kvzip", "kvzip"]),
        "config.methods: 'kvzip' is listed 2 times",
    ),
    "family twice": (
        change(families=["tiny", "tiny"]),
        "config.families: 'tiny' is listed 2 times",
    ),
    "task twice": (
        dataset(tasks=["vt", "vt"]),
        "config.benchmarks: 'tiny/vt' is listed 2 times",
    ),
    "no corpus": (
        remove("corpus"),
        "config.corpus: missing, but proxykv, prior must be fitted on it",
    ),
    "crossed without a part": (
        change(methods=["full", "kvzip", "cross_kvzip_budget"]),
        "config.methods: 'cross_kvzip_budget' needs 'proxykv'; add it to the list",
    ),
    "crossed by parameters without a part": (
        change(
            methods=[
                *("full", "kvzip", "proxykv"),
                {"id": "mine", "base": "cross_kvzip_budget", "params": {"ranking": "snapkv"}},
            ]
        ),
        "config.methods: 'cross_kvzip_budget' needs 'snapkv'; add it to the list",
    ),
    "variant without what it shares": (
        change(methods=["full", "proxykv_shuffled"]),
        "config.methods: 'proxykv_shuffled' needs 'proxykv'; add it to the list",
    ),
    "name that is no folder": (
        change(run="../elsewhere"),
        "config.run: '../elsewhere' is not allowed; expected letters, digits, '_', '.' and '-', "
        "beginning with a letter or a digit",
    ),
}


def test_the_base_of_these_tests_is_right() -> None:
    assert config_problems(valid()) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_line(mistake: str) -> None:
    spoil, line = MISTAKES[mistake]
    config = valid()
    spoil(config)
    assert config_problems(config) == [line]
    with pytest.raises(ConfigError) as caught:
        Run(config)
    assert str(caught.value) == line


def test_all_mistakes_are_told_at_once() -> None:
    config = valid() | {"families": ["tini"], "retentions": [0.5, 0.1], "methods": ["kvzip"]}
    assert len(config_problems(config)) == 3
