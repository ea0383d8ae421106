"""The same scores as kvpress, the published collection of pruning methods, on random models."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import CASES
from random_models import random_net
from torch import Tensor

from baselines.kvzip import replay_scores
from baselines.snapkv import PRESETS, window_scores
from proxykv.cache import ATTENTION
from proxykv.select import select

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("kvpress") is None, reason="kvpress is not installed"
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    path = tmp_path_factory.mktemp("kvpress") / "scores.pt"
    command = [sys.executable, str(HERE / "reference.py"), str(path)]
    done = subprocess.run(
        command,
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", CASES)
def test_kvzip(name: str, reference: dict[str, dict[str, Tensor]]) -> None:
    case = CASES[name]
    net = random_net(case.architecture, ATTENTION)
    ours = replay_scores(net, case.ids, case.prefix_len, case.replays)
    expected = reference[name]["kvzip"]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    for retention in (0.1, 0.3):
        kept, published = (select(s, retention, "global") for s in (ours, expected))
        # Equal but for scores that lie closer than rounding.
        assert (kept ^ published).sum() <= 2


@pytest.mark.parametrize("name", CASES)
def test_snapkv(name: str, reference: dict[str, dict[str, Tensor]]) -> None:
    case, preset = CASES[name], PRESETS["kvpress"]
    net = random_net(case.architecture, ATTENTION)
    ours = window_scores(net, case.ids, case.prefix_len, **preset)
    expected = reference[name]["snapkv"][..., case.prefix_len :]
    earlier = slice(None, -preset["window"])
    torch.testing.assert_close(ours[..., earlier], expected[..., earlier], atol=1e-6, rtol=1e-5)
    # The window ranks first in both; only here are its tokens told apart.
    assert (expected[..., -preset["window"] :] > expected[..., earlier].amax()).all()
    assert (ours[..., -preset["window"] :] > ours[..., earlier].amax()).all()
