"""The same replays, scores and kept sets as kvpress, the published collection of methods."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import ANSWERED, CASES, CONTEXT, PREFIX, QUESTIONS, RATIO, TEMPLATE, Case
from method_fixture import needs_kvpress

from baselines.snapkv import PRESETS, window_scores
from proxykv.api import Pair
from proxykv.config.catalog import methods_of
from proxykv.model.loading import load_model
from proxykv.model.model import Model
from proxykv.model.prefill import prefill
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.engine import Engine
from proxykv.scoring.kvzip import NEXT, replay_scores, replays, score_replays
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.proxy import Proxy
from proxykv.scoring.selection import select

HERE = Path(__file__).parent

pytestmark = needs_kvpress


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the cases' models, and what kvpress finds in them."""
    root = tmp_path_factory.mktemp("parity")
    for case in CASES:
        case.write(root / case.name)
    done = subprocess.run(
        [sys.executable, str(HERE / "reference.py"), str(root)],
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def model(case: Case, root: Path) -> Model:
    return load_model(root / case.name, chat=case.prefix_len > 0)


@pytest.fixture(scope="module")
def published(case: Case, root: Path) -> dict[str, Any]:
    return torch.load(root / "reference.pt", weights_only=True)[case.name]


def test_replay_inputs(case: Case, model: Model, published: dict[str, Any]) -> None:
    """kvpress' request has no space at its end; the authors' has."""
    assert case.input_ids[: case.prefix_len].tolist() == list(model.prefix)
    context = case.input_ids[case.prefix_len :]
    ours = replays(model, context, case.chunk, following=NEXT.rstrip(" "))
    assert len(ours) == len(published["kvzip"]["replays"])
    for pair, theirs in zip(ours, published["kvzip"]["replays"], strict=True):
        assert [part.tolist() for part in pair] == [part.tolist() for part in theirs]


@pytest.mark.parametrize("method", ["kvzip", "kvzip_plus"])
def test_kvzip(method: str, case: Case, model: Model, published: dict[str, Any]) -> None:
    theirs = published[method]
    prefilled = prefill(model, case.input_ids, case.prefix_len)
    ours = score_replays(prefilled, theirs["replays"], plus=method == "kvzip_plus")
    torch.testing.assert_close(ours, theirs["scores"], atol=5e-5, rtol=0)
    if method == "kvzip":
        bare = replay_scores(model.net, case.input_ids, case.prefix_len, theirs["replays"])
        assert torch.equal(bare, ours)
    # kvpress counts the prefix in its budget, so the count that it leaves is taken from it.
    count = int(theirs["kept"].sum())
    assert 0 < count < (1 - RATIO + 0.01) * ours.numel()
    kept = select(ours, (count + 0.5) / ours.numel(), "global")
    threshold = theirs["scores"][theirs["kept"]].min()
    differing = theirs["scores"][kept ^ theirs["kept"]]
    assert ((differing - threshold).abs() <= 1e-5).all()


@pytest.mark.parametrize("case", ANSWERED, indirect=True, ids=lambda case: case.architecture)
def test_a_pair_answers_as_kvpress_pipeline(
    case: Case, root: Path, published: dict[str, Any]
) -> None:
    bare = load_model(root / case.name, chat=False)
    bare.tokenizer.chat_template = TEMPLATE
    ledger = Ledger()
    small = Proxy(lambda: bare, ledger)
    snapkv = {"id": "snapkv", "base": "snapkv", "params": {"preset": "kvpress"}}
    methods = methods_of([snapkv, "kvpress:KeyDiffPress"])
    context = MethodContext(fitted={}, proxy=small, methods=methods, pair={}, seed=0, ledger=ledger)
    pair = Pair(bare.with_template(), Engine(context, small, "sequential"), {})
    asked: Any = {"questions": QUESTIONS, "answer_prefix": PREFIX, "max_new_tokens": 12}
    points = {
        "full": (0, "snapkv"),
        "snapkv": (RATIO, "snapkv"),
        "keydiff": (RATIO, "kvpress:KeyDiffPress"),
    }
    found = {
        name: pair(CONTEXT, compression_ratio=ratio, method=method, scope="head", **asked)
        for name, (ratio, method) in points.items()
    }
    assert {name: given["answers"] for name, given in found.items()} == published["answers"]
    assert len({str(given) for given in found.values()}) > 1  # pruning changes answers


def test_snapkv(case: Case, model: Model, published: dict[str, Any]) -> None:
    preset = PRESETS["kvpress"]
    ours = window_scores(model.net, case.input_ids, case.prefix_len, **preset)
    expected = published["snapkv"][..., case.prefix_len :]
    earlier = slice(None, -preset["window"])
    torch.testing.assert_close(ours[..., earlier], expected[..., earlier], atol=1e-6, rtol=1e-5)
    # The window ranks first in both; only here are its tokens told apart.
    assert (expected[..., -preset["window"] :] > expected[..., earlier].amax()).all()
    assert (ours[..., -preset["window"] :] > ours[..., earlier].amax()).all()
