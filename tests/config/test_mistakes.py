"""Every mistake in a config is one clear line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from method_fixture import HAS_KVPRESS, needs_kvpress
from valid_config import Config, valid

from proxykv.config import catalog
from proxykv.config.check import config_problems
from proxykv.config.check.schema import schema_problems
from proxykv.config.run import Run
from proxykv.runtime.errors import ConfigError


def change(**parts: Any) -> Callable[[Config], None]:
    return lambda config: config.update(parts)


def remove(key: str) -> Callable[[Config], None]:
    return lambda config: config.pop(key)


def dataset(section: str = "benchmarks", **parts: Any) -> Callable[[Config], None]:
    return lambda config: config[section][0].update(parts)


def texts(**source: Any) -> Callable[[Config], None]:
    """A source of text of the corpus."""
    return dataset("corpus", benchmark="text", tasks=["prose"], options={"sources": [source]})


def published(benchmark: str, task: str, **parts: Any) -> Callable[[Config], None]:
    """A published benchmark in place of the tiny one."""
    entry = {"benchmark": benchmark, "tasks": [task], "contexts": 2, **parts}
    return lambda config: config.update(benchmarks=[entry])


def method(**parts: Any) -> Callable[[Config], None]:
    return change(methods=["full", {"id": "mine", **parts}])


def compare(*groups: list[list[str]]) -> Callable[[Config], None]:
    return change(comparisons=[{"group": "more", "pairs": pairs} for pairs in groups])


MISTAKES: dict[str, tuple[Callable[[Config], Any], str]] = {
    "a seed that is too large": (
        dataset(seed=10**30),
        "config.benchmarks[0].seed: larger than 4294967295, the most that a number may be",
    ),
    "contexts without end": (
        dataset(contexts=10**9),
        "config.benchmarks[0].contexts: 1000000000 is greater than the maximum of 1000000",
    ),
    "a count with a point": (
        dataset(contexts=2.0),
        "config.benchmarks[0].contexts: 2.0 is not of type 'integer'",
    ),
    "a part of two lines": (
        change(corpus=[{**valid()["corpus"][0], "part": "a\nb"}]),
        "config.corpus[0].part: 'a\\nb' is not allowed; expected at most 100 characters in one "
        "line, without blanks at the ends",
    ),
    "an integer with more digits than a float has": (
        method(base="proxykv", params={"seed": 10**400}),
        "config.methods[1].params.seed: larger than 4294967295, the most that a number may be",
    ),
    "no number": (
        change(training={"val_contexts": 1, "lr": float("nan")}),
        "config.training.lr: nan is not a finite number",
    ),
    "an endless number": (
        dataset(options={"share": -float("inf")}),
        "config.benchmarks[0].options.share: -inf is not a finite number",
    ),
    "more jobs than a scheduler holds": (
        dataset(shards=10**6),
        "config.benchmarks[0].shards: 1000000 is greater than the maximum of 10000",
    ),
    "more jobs that store scores": (
        change(score_shards=10**6),
        "config.score_shards: 1000000 is greater than the maximum of 10000",
    ),
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
    "folder for a method that is not fitted": (
        method(base="kvzip", fitted="mappers/mine"),
        "config.methods[1]: 'kvzip' is not fitted; remove 'fitted'",
    ),
    "part for a method that is fitted already": (
        method(base="prior", fitted="mappers/mine", corpus=["single"]),
        "config.methods[1]: `fitted` says where it is fitted already; remove 'corpus'",
    ),
    "setting of training for a mapper that is fitted already": (
        method(base="proxykv", fitted="mappers/mine", params={"steps": 9}),
        "config.methods[1].params: unknown key 'steps'; known: shuffled",
    ),
    "fitted outside the checkout": (
        method(base="proxykv", fitted="../mine"),
        "config.methods[1].fitted: '../mine' is not allowed; expected a folder below the "
        "checkout, named with letters, digits, '_', '.', '-' and '/'",
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
    "a loss of zeros": (
        change(training={"val_contexts": 1, "weights": {"mse": 0}}),
        "config.training.weights: all are zero; give at least one term a weight",
    ),
    "a loss without terms, of a method": (
        method(base="proxykv", params={"weights": {}}),
        "config.methods[1].params.weights: all are zero; give at least one term a weight",
    ),
    "an even kernel of the mapper": (
        change(training={"mapper": {"kernel": 4}}),
        "config.training.mapper.kernel: 4 is even; choose an odd number",
    ),
    "an even kernel of the surrogate": (
        method(base="surrogate", params={"kernel": 4}),
        "config.methods[1].params.kernel: 4 is even; choose an odd number",
    ),
    "a width that the heads do not divide": (
        change(training={"mapper": {"width": 9}, "val_contexts": 1}),
        "config.training.mapper: width 9 is not a multiple of attention_heads 2; choose a multiple",
    ),
    "a width that the heads of a method do not divide": (
        method(base="proxykv", params={"mapper": {"attention_heads": 5}}),
        "config.methods[1].params.mapper: width 32 is not a multiple of attention_heads 5; "
        "choose a multiple",
    ),
    "a device that does not exist": (
        change(training={"device": "gpu0"}),
        "config.training.device: 'gpu0' is not allowed; expected auto, cpu, cuda or cuda:<number>",
    ),
    "chunks of no token": (
        method(base="kvzip", params={"chunk": 0}),
        "config.methods[1].params.chunk: 0 is less than the minimum of 1",
    ),
    "sinks below zero": (
        method(base="streaming", params={"sinks": -1}),
        "config.methods[1].params.sinks: -1 is less than the minimum of 0",
    ),
    "a scorer that cannot choose by itself": (
        method(base="kvzip", scope="custom"),
        "config.methods[1].scope: 'kvzip' has no method `keep`, so it cannot choose by itself "
        "(custom); choose global, layer or head",
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
    "every context held out for validation": (
        change(training={"val_contexts": 999}),
        "config.training.val_contexts: 999 of the 2 contexts that 'proxykv' is fitted on cannot be "
        "held out; set it between 1 and 1",
    ),
    "as many held out as there are": (
        method(base="proxykv", params={"val_contexts": 2}),
        "config.training.val_contexts: 2 of the 2 contexts that 'mine' is fitted on cannot be "
        "held out; set it between 1 and 1",
    ),
    "too few contexts of a length": (
        lambda config: (
            config["corpus"][0].update(lengths=[128, 256]),
            method(base="proxykv", lengths=[256])(config),
        ),
        "config.training.val_contexts: 1 of the 1 contexts that 'mine' is fitted on cannot be "
        "held out; add contexts to the corpus",
    ),
    "everything held out": (
        lambda config: (
            config["corpus"][0].update(held_out=2),
            change(methods=["full", "prior"])(config),
        ),
        "config.corpus: no context is left to fit 'prior' on; lower `held_out`",
    ),
    "length too short for the task": (
        dataset(lengths=[128, 12]),
        "config.benchmarks[0].lengths: 12 tokens cannot hold a context of tiny/single; "
        "give 19 or more",
    ),
    "length too short for a task of the corpus": (
        dataset("corpus", lengths=[12]),
        "config.corpus[0].lengths: 12 tokens cannot hold a context of tiny/single; give 19 or more",
    ),
    "length too short for the answer": (
        published("ruler", "cwe", lengths=[100]),
        "config.benchmarks[0].lengths: 100 tokens cannot hold a context of ruler/cwe; "
        "give 400 or more",
    ),
    "misspelt kind of a source": (
        texts(kind="foldr", files="*", path="x"),
        "config.corpus[0].options.sources[0]: source kind 'foldr': expected one of wheel, package, "
        "debian, hub, stdlib, folder",
    ),
    "source without a kind": (
        texts(files="*"),
        "config.corpus[0].options.sources[0]: source kind None: expected one of wheel, package, "
        "debian, hub, stdlib, folder",
    ),
    "misspelt key of a source": (
        texts(kind="stdlib", file="*"),
        "config.corpus[0].options.sources[0]: source {'kind': 'stdlib', 'file': '*'}: "
        "needs exactly the keys kind, files",
    ),
    "misspelt key of a source of records": (
        published("longbench", "qasper", options={"source": {"pth": "x"}}),
        "config.benchmarks[0].options.source: {'pth': 'x'}: give `path`, or `hub` with `revision`",
    ),
    "source that is no mapping": (
        published("longbench", "qasper", options={"source": "here"}),
        "config.benchmarks[0].options.source: 'here' is not of type 'object'",
    ),
    "source on the hub without a revision": (
        published("longbench", "qasper", options={"source": {"hub": "a/b"}}),
        "config.benchmarks[0].options: a/b: revision '' is not a commit (40 hexadecimal digits); "
        "branches and tags can move",
    ),
    "misspelt text of RULER": (
        published("ruler", "qa_1", lengths=[900], options={"sources": {"squda": {"path": "x"}}}),
        "config.benchmarks[0].options.sources: unknown key 'squda'; did you mean 'squad'?",
    ),
    "mistake in a text of RULER": (
        published("ruler", "qa_1", lengths=[900], options={"sources": {"squad": {"file": "x"}}}),
        "config.benchmarks[0].options.sources.squad: {'file': 'x'}: give `path`, or `hub` with "
        "`revision`",
    ),
    "mode that SCBench lacks": (
        published("scbench", "kv", options={"mode": "chat"}),
        "config.benchmarks[0].options.mode: 'chat' is not one of ['multi_request', 'multi_turn']",
    ),
    "no question of SCBench": (
        published("scbench", "kv", options={"max_turns": 0}),
        "config.benchmarks[0].options.max_turns: 0 is less than the minimum of 1",
    ),
    "RULER as the corpus": (
        dataset("corpus", benchmark="ruler", tasks=["vt"], lengths=[900], contexts=2),
        "config.corpus[0]: ruler has no contexts to train on; name another benchmark",
    ),
    "LongBench as the corpus": (
        lambda config: config.update(
            corpus=[
                {
                    "benchmark": "longbench",
                    "tasks": ["lcc"],
                    "contexts": 2,
                    "options": {"source": {"path": "x"}},
                }
            ]
        ),
        "config.corpus[0]: longbench has no contexts to train on; name another benchmark",
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
        "config.retentions[0]: nan is not a finite number",
    ),
    "retention as text": (
        change(retentions=["10%", 1.0]),
        "config.retentions[0]: '10%' is not of type 'number'",
    ),
    "retention twice": (
        change(retentions=[0.1, 1.0, 1]),
        "config.retentions: 1.0 is listed 2 times",
    ),
    "retentions that tables cannot tell apart": (
        change(retentions=[0.3, 0.30000000000000004, 1.0]),
        "config.retentions: 0.3 is listed 2 times",
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
        "config.run: '../elsewhere' is not allowed; expected at most 100 letters, digits, '_', '.' "
        "and '-', beginning with a letter or a digit",
    ),
}


def dms(*at: Config) -> Config:
    return {"press": {"name": "KnormPress"}, "at": list(at)}


OF_PRESSES: dict[str, tuple[Callable[[Config], None], str]] = {
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
    "setting of the adapter": (
        method(base="kvpress:SnapKVPress", params={"attention": "flash"}),
        "config.methods[1].params.attention: 'flash' is not one of ['sdpa', 'eager']",
    ),
    "retention without a threshold": (
        method(base="kvpress:DMSPress", scope="custom", params=dms({"retention": 0.9})),
        "config.methods[1].params.at: no entry of retention 0.1",
    ),
    "threshold without a retention": (
        method(base="kvpress:DMSPress", scope="custom", params=dms({"threshold": 1})),
        "config.methods[1].params.at[0]: expected {retention: …, <parameter>: …}",
    ),
    "part of a press missing": (
        change(methods=["full", "kvpress:AdaKVPress"]),
        "config.methods[1].params: 'press' is a required property",
    ),
}


def test_the_base_of_these_tests_is_right() -> None:
    assert config_problems(valid()) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_line(mistake: str) -> None:
    refused(*MISTAKES[mistake])


@needs_kvpress
@pytest.mark.parametrize("mistake", OF_PRESSES)
def test_each_mistake_with_presses_is_one_line(mistake: str) -> None:
    refused(*OF_PRESSES[mistake])


@pytest.mark.skipif(HAS_KVPRESS, reason="kvpress is installed")
def test_without_kvpress_one_line_says_how_to_get_it() -> None:
    refused(
        change(methods=["full", "kvpress:KnormPress"]),
        "config.methods[1]: no module 'kvpress', in the checkout or installed; "
        "'kvpress:KnormPress' needs it: run `make parity`, then `. .venv-kvpress/bin/activate`",
    )


def refused(spoil: Callable[[Config], None], line: str) -> None:
    config = valid()
    spoil(config)
    assert config_problems(config) == [line]
    with pytest.raises(ConfigError) as caught:
        Run(config)
    assert str(caught.value) == line


def test_all_mistakes_are_reported_at_once() -> None:
    config = valid() | {"families": ["tini"], "retentions": [0.5, 0.1], "methods": ["kvzip"]}
    assert len(config_problems(config)) == 3


def test_models_may_have_billions_of_parameters() -> None:
    families = catalog.families()
    assert max(f["target"].get("shape", {}).get("parameters", 0) for f in families.values()) > 2**32
    for name, family in families.items():
        assert schema_problems(family, "family", name) == []
