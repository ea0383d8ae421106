"""Fixtures: methods of every kind, fitted on random models, and a context for them to score."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from random_models import random_net
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from proxykv.benchmarks import tiny, tiny_language
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.config.settings.signals import Signal
from proxykv.mapper.layer_inputs import inputs_file, sample_inputs
from proxykv.model.caches.context import ATTENTION
from proxykv.model.model import Model, context_ids
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Scores
from proxykv.scoring.contract import MethodContext, build, scores_of
from proxykv.scoring.kvzip import replays, score_replays
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.proxy import Proxy
from proxykv.scoring.signals import proxy_signals

PREFIX = 3
RETENTION = 0.13
HAS_KVPRESS = importlib.util.find_spec("kvpress") is not None
needs_kvpress = pytest.mark.skipif(
    not HAS_KVPRESS, reason="kvpress needs older packages: `make parity` runs this"
)
PRESSES: list[Any] = [
    "kvpress:KnormPress",
    {"id": "expected_global", "base": "kvpress:ExpectedAttentionPress", "scope": "global"},
    {
        "id": "adakv",
        "base": "kvpress:AdaKVPress",
        "scope": "custom",
        "params": {"press": {"name": "SnapKVPress", "window_size": 8}},
    },
]
ENTRIES: list[Any] = [
    *sorted(method_id for method_id in catalog.variants() if not method_id.endswith(":")),
    "method_fixture:Latest",
    *(PRESSES if HAS_KVPRESS else ()),
]
"""Methods of a run: the catalogue's, a class of a user's, and presses where kvpress is."""
METHODS = [entry if isinstance(entry, str) else entry["id"] for entry in ENTRIES]
PAIR = {"target_hash": "of the target", "proxy_hash": "of the proxy"}
QUICK = {
    "seed": 0,
    "steps": 6,
    "warmup": 1,
    "crop": 64,
    "val_contexts": 1,
    "mapper": {"conv_channels": 8, "time_width": 16, "time_dilations": (1,), "width": 16},
}


class Latest:
    """A scorer of a user's: the latest tokens, in even layers first."""

    def __init__(self, context: MethodContext) -> None:
        pass

    def score(self, prefill: Prefill) -> Scores:
        layers, _, n = prefill.shape
        odd = torch.arange(layers)[:, None, None] % 2
        return (torch.arange(n) / n - odd).expand(prefill.shape)


@pytest.fixture(scope="session")
def target() -> Model:
    return model(seed=0, num_hidden_layers=3)


@pytest.fixture(scope="session")
def proxy() -> Model:
    return model(seed=1, num_hidden_layers=2, hidden_size=32, num_attention_heads=2)


def model(**settings: Any) -> Model:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_language.make_tokenizer())
    net = random_net("llama", ATTENTION, vocab_size=len(tokenizer), **settings)
    return Model(net, tokenizer, prefix=(5,) * PREFIX, suffix=(), digest="")


@pytest.fixture(scope="session")
def contexts() -> list[str]:
    """Six to fit on and two to score, of different lengths."""
    examples = tiny.build(
        "single",
        tokenizer=tiny_language.make_tokenizer(),
        contexts=8,
        lengths=(96, 80),
        seed=0,
        split="train",
    )
    return [example.context for example in examples]


@pytest.fixture(scope="session")
def run() -> Run:
    """A run of all methods there are."""
    dataset = {"benchmark": "tiny", "tasks": ["single"], "contexts": 2, "lengths": [96]}
    return Run(
        {
            "run": "methods",
            "families": ["tiny"],
            "methods": ENTRIES,
            "retentions": [RETENTION, 1.0],
            "benchmarks": [dataset],
            "corpus": [dataset],
            "training": {"val_contexts": 1},
        }
    )


@pytest.fixture(scope="session")
def method_context(
    target: Model,
    proxy: Model,
    contexts: list[str],
    run: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> MethodContext:
    """What methods may use, everything fitted on stored scores of the random models."""
    folder = tmp_path_factory.mktemp("fitted")
    files = [folder / f"{i}.safetensors" for i in range(6)]
    for path, text in zip(files, contexts, strict=False):
        ids = context_ids(target, text)
        prefilled = prefill(target, ids, PREFIX)
        scores = {
            "target": score_replays(prefilled, replays(target, prefilled.context)),
            "proxy": proxy_signals(target, proxy, ids, PREFIX, [Signal()])[Signal()],
        }
        save_file({name: t.half().contiguous() for name, t in scores.items()}, path)
        save_file(sample_inputs(target, ids, PREFIX, path.name), inputs_file(path))
    for fitted_id in run.fitted_ids:
        module = importlib.import_module(catalog.module_of(run.methods[fitted_id].base)[0])
        module.fit(files, folder / fitted_id, QUICK, PAIR)
    fitted = {name: folder / name for name in run.fitted_ids}
    ledger = Ledger()
    return MethodContext(fitted, Proxy(lambda: proxy, ledger), run.methods, PAIR, 0, ledger)


def fill(target: Model, text: str, other: str | None = None) -> Prefill:
    donor = None if other is None else context_ids(target, other)
    return prefill(target, context_ids(target, text), PREFIX, donor)


@pytest.fixture
def prefilled(target: Model, contexts: list[str]) -> Prefill:
    return fill(target, contexts[6], contexts[7])


@pytest.fixture(scope="session")
def scores(
    method_context: MethodContext, target: Model, contexts: list[str], run: Run
) -> Mapping[str, Scores]:
    """Scores of every method that gives them, on one context."""
    shared = fill(target, contexts[6], contexts[7])
    scoring = [m for m in run.methods.values() if m.scope != "custom"]
    return {m.id: scores_of(build(m, method_context), shared) for m in scoring}
