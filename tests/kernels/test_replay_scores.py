"""A replay's attention and scores: the Triton kernels give what PyTorch gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proxykv.kernels.choice import PLACES, VARIABLE
from proxykv.kernels.replay import Plus, ReplayKeyValues
from proxykv.kernels.replay_scores import attend_and_score

HERE = Path(__file__).parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where there is no GPU, Triton's interpreter runs the kernels."""
SCALING = 0.125
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}
"""Of attention. Scores come from float32 logits in both, so they are as good in float16."""


class Shape(NamedTuple):
    """Sizes of a replay; `chunk` tokens stand between `before` and `after` others of the context.

    `rows_first` lays keys out as projections do: the heads of a token stand side by side.
    """

    heads: int
    group: int
    dim: int
    prefix: int
    before: int
    chunk: int
    after: int
    replay: int
    rows_first: bool
    local: bool


SHAPES = st.builds(
    Shape,
    heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 4, 7]),
    dim=st.sampled_from([16, 64, 80, 96, 128]),
    prefix=st.sampled_from([0, 1, 5, 33]),
    before=st.sampled_from([0, 1, 32, 50]),
    chunk=st.sampled_from([1, 31, 32, 45, 70]),
    after=st.sampled_from([0, 1, 40]),
    replay=st.sampled_from([1, 9, 32, 65]),
    rows_first=st.booleans(),
    local=st.booleans(),
)
ALONE = Shape(2, 4, 64, 5, 0, 70, 0, 75, True, False)
"""A context of one chunk."""
MIDDLE = Shape(2, 2, 80, 3, 40, 37, 29, 41, True, False)


class Case(NamedTuple):
    query: Tensor
    layer: ReplayKeyValues
    plus: Plus


def case(shape: Shape, dtype: torch.dtype) -> Case:
    """Random tensors, whose queries look for the chunk's tokens in turn."""
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    def stored(heads: int, tokens: int) -> Tensor:
        if shape.rows_first:
            return normal(tokens, heads, shape.dim).transpose(0, 1)
        return normal(heads, tokens + 3, shape.dim)[:, 2:-1]

    start = shape.prefix + shape.before
    stop = start + shape.chunk
    keys, values = (stored(shape.heads, stop + shape.after) for _ in range(2))
    replay = [stored(shape.heads, shape.replay) for _ in range(2)]
    query = stored(shape.heads * shape.group, shape.replay)
    matching_keys = keys[:, start + torch.arange(shape.replay) % shape.chunk]
    query += 0.5 * matching_keys.repeat_interleave(shape.group, dim=0)
    query, keys, values, *replay = (t.to(DEVICE, dtype) for t in (query, keys, values, *replay))
    weights = [
        (0.1 + torch.rand(*sizes, generator=generator)).to(DEVICE)
        for sizes in ((shape.replay,), (shape.heads, shape.group, shape.chunk))
    ]
    layer = ReplayKeyValues(
        keys, values, replay[0], replay[1], shape.prefix, slice(start, stop), shape.local
    )
    return Case(query, layer, Plus(*weights))


def dense(made: Case, plus: bool) -> tuple[Tensor, Tensor]:
    """Attention and scores in float64, from whole matrices of logits."""
    query, layer = made.query.double(), made.layer
    total, replay = layer.context_keys.shape[1], query.shape[1]
    group = len(query) // len(layer.keys)
    keys, values = (
        torch.cat(parts, dim=1).double().repeat_interleave(group, dim=0)
        for parts in ((layer.context_keys, layer.keys), (layer.context_values, layer.values))
    )
    near = torch.zeros(total, dtype=torch.bool, device=DEVICE)
    near[: layer.prefix_len] = near[layer.chunk] = True
    causal = torch.ones(replay, replay, dtype=torch.bool, device=DEVICE).tril()
    scored = torch.cat([near.expand(replay, -1), causal], dim=1)
    attended = torch.cat([(near | (not layer.local)).expand(replay, -1), causal], dim=1)
    logits = query @ keys.mT * SCALING
    out = logits.masked_fill(~attended, -torch.inf).softmax(dim=-1) @ values
    weights = logits.masked_fill(~scored, -torch.inf).softmax(dim=-1)[..., layer.chunk]
    weights = weights.unflatten(0, (-1, group))
    if plus:
        weights = weights * made.plus.queries[:, None] * made.plus.pairs[:, :, None]
    return out, weights.amax(dim=(1, 2))


def check(shape: Shape, dtype: torch.dtype, plus: bool, rtol: float) -> None:
    made = case(shape, dtype)
    out, scores = attend_and_score(made.query, made.layer, SCALING, made.plus if plus else None)
    expected, expected_scores = dense(made, plus)
    assert out is not None and out.dtype == dtype and scores.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(scores.double(), expected_scores, atol=0, rtol=rtol)
    if not plus:
        assert scores.max() <= 1
    none, alone = attend_and_score(
        made.query, made.layer, SCALING, made.plus if plus else None, scores_only=True
    )
    assert none is None
    torch.testing.assert_close(alone, scores, atol=0, rtol=1e-4)


def forced(implementation: str) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setenv(VARIABLE, implementation)
    return patch


@settings(max_examples=20)
@given(shape=SHAPES, dtype=st.sampled_from(list(TOLERANCE)), plus=st.booleans())
def test_kernels_give_attention_and_scores(shape: Shape, dtype: torch.dtype, plus: bool) -> None:
    pytest.importorskip("triton")
    with forced("triton").context():
        check(shape, dtype, plus, rtol=1e-4)


@settings(max_examples=20)
@given(shape=SHAPES, plus=st.booleans())
def test_the_reference_gives_attention_and_scores(shape: Shape, plus: bool) -> None:
    with forced("reference").context():
        check(shape, torch.float32, plus, rtol=1e-4)


@pytest.mark.parametrize("shape", [ALONE, MIDDLE], ids=["one chunk", "several chunks"])
@pytest.mark.parametrize("tma", [False, True], ids=["pointers", "descriptors"])
@pytest.mark.parametrize(("queries", "keys"), [(16, 64), (64, 16)])
def test_every_cut_gives_the_same(shape: Shape, tma: bool, queries: int, keys: int) -> None:
    """More queries than keys at a time, and fewer; tiles by pointer and by descriptor."""
    pytest.importorskip("triton")
    from proxykv.kernels.gpu.replay_scores import ReplayCut, ReplayTiles
    from proxykv.kernels.gpu.replay_scores import attend_and_score as run

    made = case(shape, torch.float16)
    tiles = ReplayTiles(queries, keys, 4, 1, tma)
    out, scores = run(made.query, made.layer, SCALING, None, False, ReplayCut(tiles, tiles))
    expected, expected_scores = dense(made, plus=False)
    assert out is not None
    torch.testing.assert_close(out.double(), expected, atol=4e-3, rtol=0)
    torch.testing.assert_close(scores.double(), expected_scores, atol=0, rtol=1e-4)


TENSORS = ["query", *ReplayKeyValues._fields[:4]]


def with_tensor(made: Case, name: str, tensor: Tensor) -> tuple[Tensor, ReplayKeyValues]:
    """A case of which one tensor is another one."""
    if name == "query":
        return tensor, made.layer
    return made.query, made.layer._replace(**{name: tensor})


@pytest.mark.parametrize("name", TENSORS)
def test_heads_that_are_not_dense_take_the_reference(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels would read numbers that do not stand side by side."""
    pytest.importorskip("triton")
    made = case(ALONE, torch.float32)
    tensor = made.query if name == "query" else getattr(made.layer, name)
    query, layer = with_tensor(made, name, tensor.mT.contiguous().mT)
    monkeypatch.setenv(VARIABLE, "triton")
    given = attend_and_score(query, layer, SCALING)
    monkeypatch.setenv(VARIABLE, "reference")
    for one, other in zip(given, attend_and_score(made.query, made.layer, SCALING), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", TENSORS)
def test_heads_that_32_bits_cannot_address_do_not_fit(name: str) -> None:
    """By length and by the distance of two tokens, up to the last one that does."""
    pytest.importorskip("triton")
    from proxykv.kernels.gpu.replay_scores import fits

    made = case(ALONE, torch.float16)
    tokens, dim = 1 << 24, 128
    for length, apart, expected in [
        (tokens - 1, dim, True),
        (tokens, dim, False),
        (tokens // 8 - 1, 8 * dim, True),  # the heads of a token stand side by side
        (tokens // 8, 8 * dim, False),
    ]:
        sizes, strides = (8, length, dim), (dim, apart, 1)
        tensor = torch.empty_strided(sizes, strides, dtype=torch.float16, device="meta")
        assert fits(*with_tensor(made, name, tensor)) == expected


def test_a_context_that_does_not_fit_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta tensors have no numbers: only the reference can be asked."""
    pytest.importorskip("triton")
    monkeypatch.setenv(VARIABLE, "triton")
    made = case(ALONE, torch.float16)
    query = made.query.to("meta")
    context, _, keys, values = (t.to("meta") for t in made.layer[:4])
    long = torch.empty(len(context), PLACES // ALONE.dim, ALONE.dim, device="meta").half()
    layer = made.layer._replace(
        context_keys=long, context_values=long, keys=keys, values=values, local=True
    )
    out, scores = attend_and_score(query, layer, SCALING)
    assert out is not None and out.shape == query.shape
    assert scores.shape == (ALONE.heads, ALONE.chunk)


def test_kernels_compile_for_gpus_that_are_not_here() -> None:
    """For Hopper without spills; for Ampere, too, and within its shared memory."""
    pytest.importorskip("triton")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, HERE / "compile_replay_scores.py"],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
