"""Attention over ragged and over masked contexts: the Triton kernels give what PyTorch gives."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proxykv.kernels import masked_attention as masked
from proxykv.kernels import ragged_attention as ragged
from proxykv.kernels.choice import VARIABLE, choose
from proxykv.kernels.layout import SLOT_SPAN, Entries, LayerTable, Place, Slots, segments
from proxykv.kernels.masked_attention import masked_attention, pack
from proxykv.kernels.ragged_attention import ragged_attention

HERE = Path(__file__).parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where there is no GPU, Triton's interpreter runs the kernels."""


class Shape(NamedTuple):
    """Sizes of a case; `before` tokens are in the slots, `new` ones follow."""

    group: int
    heads: int
    dim: int
    keys: int
    new: int
    before: int
    room: int


SHAPES = [
    Shape(group=4, heads=2, dim=64, keys=300, new=1, before=3, room=40),
    Shape(group=7, heads=2, dim=80, keys=70, new=3, before=0, room=20),  # a prefix of one tile
    Shape(group=1, heads=3, dim=96, keys=33, new=2, before=4, room=SLOT_SPAN + 44),
    Shape(group=5, heads=1, dim=128, keys=64, new=4, before=6, room=64),  # more rows than a tile
    Shape(group=2, heads=2, dim=32, keys=1, new=1, before=SLOT_SPAN + 5, room=2 * SLOT_SPAN),
]


class Random:
    """Tensors of one generator."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.generator, self.dtype = torch.Generator().manual_seed(0), dtype

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(DEVICE, self.dtype)

    def marks(self, share: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator).to(DEVICE) < share

    def slots(self, rows: int, shape: Shape) -> Slots:
        """Slots after the new tokens hold what nobody may read."""
        sizes = rows, shape.heads, shape.room, shape.dim
        slots = Slots(keys=self(*sizes), values=self(*sizes))
        for each in (slots.keys, slots.values):
            each[:, :, shape.before + shape.new :] = torch.nan
        return slots

    def query(self, rows: int, shape: Shape) -> Tensor:
        """As transformers lays it out: the heads of a token stand side by side."""
        return self(rows, shape.new, shape.group * shape.heads, shape.dim).transpose(1, 2)

    def place(self, entries: Entries, slots: Slots, shape: Shape) -> Place:
        """Where the new tokens stand; with a table where the kernels run."""
        index = torch.tensor([shape.before], device=DEVICE)
        kernels = choose(index.device, self.dtype, shape.dim).kernels
        table = LayerTable([(entries, slots)]) if kernels == "triton" else None
        return Place(shape.before, index, table=table)


def dense(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Softmax in float64 over the keys [row, kv_head, key, dim] that `mask` marks for a query."""
    group = query.shape[1] // keys.shape[1]
    keys, values, mask = (t.repeat_interleave(group, dim=1) for t in (keys, values, mask))
    logits = query.double() @ keys.double().mT * scaling
    weights = logits.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return weights @ values.double()


def slot_parts(slots: Slots, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values in the slots, and which of them each new token sees."""
    end = shape.before + shape.new
    later = torch.ones(shape.new, end, dtype=torch.bool, device=DEVICE).triu(shape.before + 1)
    mask = (~later).expand(slots.keys.shape[0], shape.heads, -1, -1)
    if slots.valid is not None:
        mask = mask & (slots.valid[:, None, None, :end] != 0)
    return slots.keys[:, :, :end], slots.values[:, :, :end], mask


IMPLEMENTATIONS = ["reference", "triton"]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}
by_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda kind: str(kind)[6:])
by_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.group}x{s.heads}x{s.dim}")


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "reference")


def bound_parts(patch: pytest.MonkeyPatch) -> None:
    """Let the kernels take a word of rows and one new token at a time."""
    if find_spec("triton"):
        from proxykv.kernels.gpu import split_attention

        patch.setattr(split_attention, "PART_ELEMENTS", 1)


@by_dtype
@by_shape
@pytest.mark.usefixtures("implementation")
def test_heads_attend_to_their_own_entries(
    shape: Shape, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One head keeps nothing, one everything. In float16, new tokens are read one by one."""
    if dtype == torch.float16:
        bound_parts(monkeypatch)
    check_heads(shape, dtype)


@pytest.mark.usefixtures("reference")
def test_the_reference_reads_a_head_in_parts_that_bound_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ragged, "BLOCK_ELEMENTS", 1)
    check_heads(SHAPES[1], torch.float32)


def check_heads(shape: Shape, dtype: torch.dtype) -> None:
    """Compare packed heads with a softmax over what they keep."""
    random = Random(dtype)
    keys, values = (random(1, shape.heads, shape.keys, shape.dim) for _ in range(2))
    kept = random.marks(0.4, shape.heads, shape.keys)
    kept[0] = False
    kept[-1] |= shape.heads > 1
    entries = Entries(keys[0][kept], values[0][kept], kept.sum(dim=1).tolist())
    slots, query = random.slots(1, shape), random.query(1, shape)
    out = ragged_attention(query, entries, slots, random.place(entries, slots, shape), 0.2)

    slot_keys, slot_values, mask = slot_parts(slots, shape)
    visible = torch.cat([kept[None, :, None].expand(-1, -1, shape.new, -1), mask], dim=-1)
    keys, values = torch.cat([keys, slot_keys], dim=2), torch.cat([values, slot_values], dim=2)
    expected = dense(query, keys, values, visible, 0.2)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@by_dtype
@by_shape
@pytest.mark.usefixtures("implementation")
def test_rows_attend_to_what_their_bits_mark(
    shape: Shape, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds of rows see everything, a part, or nothing of the context, in two words of bits.

    In float16, they are read in parts that bound memory: of rows, and in the kernels of new tokens.
    """
    if dtype == torch.float16:
        bound_parts(monkeypatch)
        monkeypatch.setattr(masked, "BLOCK_ELEMENTS", 1)
    if shape.new > 2:
        shape = shape._replace(new=2)
    check_rows(shape, dtype, [0, 1, 2] * 3 if shape.dim > 64 else [0, 1, 2] * 12)


def check_rows(shape: Shape, dtype: torch.dtype, kinds: list[int]) -> None:
    """Compare rows that see everything (kind 0), a part, or nothing of a context with a softmax."""
    random = Random(dtype)
    keys, values = (random(shape.heads, shape.keys, shape.dim) for _ in range(2))
    visible = [random.marks(share, 1, shape.heads, shape.keys) for share in (1.1, 0.3, 0)]
    rows = len(kinds)
    slots = random.slots(rows, shape)
    valid = random.marks(0.7, rows, shape.room).to(torch.int8)
    valid[:, shape.before] = 1
    slots = slots._replace(valid=valid)
    flat = [each.reshape(-1, shape.dim) for each in (keys, values)]
    bits = pack(visible, kinds)[0]
    entries = Entries(flat[0], flat[1], [shape.keys] * shape.heads, bits)
    query = random.query(rows, shape)
    out = masked_attention(query, entries, slots, random.place(entries, slots, shape), 0.2)

    slot_keys, slot_values, mask = slot_parts(slots, shape)
    kept = torch.cat([visible[kind] for kind in kinds])
    mask = torch.cat([kept[:, :, None].expand(-1, -1, shape.new, -1), mask], dim=-1)
    keys, values = (
        torch.cat([shared.expand(rows, -1, -1, -1), per_row], dim=2)
        for shared, per_row in ((keys, slot_keys), (values, slot_values))
    )
    expected = dense(query, keys, values, mask, 0.2)
    torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=0)


@settings(max_examples=4)
@given(
    shape=st.builds(
        lambda spare, **sizes: Shape(**sizes, room=sizes["before"] + sizes["new"] + spare),
        group=st.sampled_from([1, 2, 4, 7]),
        heads=st.integers(1, 2),
        dim=st.sampled_from([16, 64, 80, 96, 128]),
        keys=st.sampled_from([1, 31, 64]),
        new=st.integers(1, 3),
        before=st.sampled_from([0, 5, SLOT_SPAN + 1]),
        spare=st.sampled_from([0, 1, 30]),
    ),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_kernels_read_any_shape(shape: Shape, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "triton")
        check_heads(shape, dtype)
        check_rows(shape, dtype, [0, 1, 2])


def test_new_tokens_go_to_their_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the index on the device; what does not fit is dropped."""
    pytest.importorskip("triton")
    monkeypatch.setenv(VARIABLE, "triton")
    from proxykv.kernels.gpu.store import write

    shape, random = SHAPES[0]._replace(new=5, room=12), Random(torch.float32)
    slots = Slots(
        *(torch.zeros(2, shape.heads, shape.room, shape.dim, device=DEVICE) for _ in range(2))
    )
    entries = Entries(random(1, shape.dim), random(1, shape.dim), [1, 0])
    place = random.place(entries, slots, shape)
    keys, values = (random(2, 5, shape.heads, shape.dim).transpose(1, 2) for _ in range(2))
    write(keys, values, slots, place)
    for slot, new in ((slots.keys, keys), (slots.values, values)):
        assert torch.equal(slot[:, :, 3:8], new)
        assert not slot[:, :, :3].any() and not slot[:, :, 8:].any()
    place.index.fill_(10)
    write(keys, values, slots, place)
    assert torch.equal(slots.keys[:, :, 10:], keys[:, :, :2])
    assert not slots.keys[:, :, :3].any()


@pytest.mark.parametrize("counts", [[5000, 0, 37, 900], [0, 0], [128, 128], [1]])
@pytest.mark.parametrize("number", [4, 9, 132])
def test_segments_cover_every_entry_once(counts: list[int], number: int) -> None:
    table, bounds = segments(counts, number)
    assert len(table) == number
    starts = [sum(counts[:head]) for head in range(len(counts))]
    for head, (start, count) in enumerate(zip(starts, counts, strict=True)):
        at = start
        for where, first, size, _ in table[bounds[head] : bounds[head + 1]]:
            assert (where, first) == (head, at)
            assert size > 0
            at += size
        assert at == start + count
    assert not any(size for _, _, size, _ in table[bounds[-1] :])


def test_kernels_compile_for_gpus_that_are_not_here() -> None:
    """Hopper without spills, Ampere within its shared memory, which is less on consumers' cards."""
    pytest.importorskip("triton")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = HERE / "compile_split_attention.py"
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
