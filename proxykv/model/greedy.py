"""Greedy decoding on the device; the host starts bursts of steps and reads what they wrote.

A step has the same shapes for every token and reads what changes from device memory, without
synchronisation. CUDA replays it as a graph; other devices run it operation by operation.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from proxykv.model.caches.slotted import SlottedCache
from proxykv.model.finite import not_finite
from proxykv.model.model import Model

log = logging.getLogger(__name__)

BURST = 8
"""Tokens of a row between two reads by the host."""

BURSTS = {"cpu": 1}
"""The same on a CPU, where a read costs nothing."""

WORTH = 12
"""Capturing a step pays from this many tokens on: it takes as long as a few steps."""

SHAPES = 8
"""Graphs that a model keeps."""

NO_TOKEN = -1
"""Written instead of a token where logits are not finite."""

KEPT_ROWS = 0.75
"""Dropping finished rows copies the others' keys. It pays if at most this share continues."""


class Steps(NamedTuple):
    """What a step reads and writes; always the same memory.

    Attributes:
        tokens: the last token of every row.
        positions: their positions in the unpruned text.
        written: the tokens of a burst, `NO_TOKEN` where there is none.
        at: how many of them there are.
    """

    tokens: Int[Tensor, "row 1"]
    positions: Int[Tensor, "row 1"]
    written: Int[Tensor, "row burst"]
    at: Tensor


def step(model: Model, cache: SlottedCache, steps: Steps) -> None:
    """Read every row's last token and write its next one.

    Args:
        model: the model.
        cache: the rows' cache; it grows by a token.
        steps: memory that the step reads and writes.
    """
    hidden = model.hidden(steps.tokens, steps.positions, cache)
    logits = model.logits(hidden[:, -1])
    following = logits.argmax(dim=-1, keepdim=True)  # of NaN, where there is one
    known = logits.gather(-1, following).isfinite()
    steps.written.index_copy_(1, steps.at, following.where(known, NO_TOKEN))
    steps.tokens.copy_(following)
    steps.positions.add_(1)
    steps.at.add_(1)


def decode(
    model: Model,
    cache: SlottedCache,
    tokens: Int[Tensor, " row"],
    positions: Int[Tensor, " row"],
    limits: Sequence[int],
    stops: Sequence[frozenset[int]],
) -> list[list[int]]:
    """Write every row's answer.

    Args:
        model: the model that filled the cache.
        cache: a context, and each row's question.
        tokens: first tokens of the answers.
        positions: theirs.
        limits: most tokens of each answer.
        stops: ids that end each answer.

    Returns:
        Ids of each answer, without the one that ended it.

    Raises:
        ConfigError: if the logits of an answer's token are not finite.
    """
    written: list[list[int]] = [[] for _ in limits]

    def left(row: int) -> int:
        ended = bool(written[row]) and written[row][-1] in stops[row]
        return 0 if ended else limits[row] - len(written[row])

    rows, new = list(range(len(limits))), tokens[:, None].tolist()  # rows of the cache
    decoder = _Decoder(model, cache, tokens, positions, max(limits))
    while True:
        for row, ids in zip(rows, new, strict=True):
            for token in ids:
                if left(row) > 0:
                    if token == NO_TOKEN:
                        raise not_finite(model.net.dtype, "within an answer")
                    written[row].append(token)
        going = [i for i, row in enumerate(rows) if left(row) > 0]
        if not going:
            answers = zip(written, stops, strict=True)
            return [[token for token in ids if token not in stop] for ids, stop in answers]
        if decoder.captured is None and len(going) <= KEPT_ROWS * len(rows):
            decoder.select_rows(torch.tensor(going, device=tokens.device))
            rows = [rows[i] for i in going]
        new = decoder.burst(max(left(row) for row in rows))


class _Decoder:
    """Rows of a cache that decode together."""

    def __init__(
        self, model: Model, cache: SlottedCache, tokens: Tensor, positions: Tensor, most: int
    ) -> None:
        cache.reserve(most)
        self.model, self.cache = model, cache
        self.width = BURSTS.get(tokens.device.type, BURST)
        self.steps = Steps(
            tokens[:, None].clone(),
            positions[:, None].clone(),
            tokens.new_zeros(len(tokens), self.width),
            tokens.new_zeros(1),
        )
        self.on_host = self._pinned()
        self.captured = captured(model, cache, self.steps, most)

    def burst(self, most: int) -> list[list[int]]:
        """Decode up to `most` more tokens of every row, as many as fit a burst; return them."""
        count = min(most, self.width)
        self.steps.at.zero_()
        if self.captured and not self._replayed(self.captured, count):
            self.captured = None
        if not self.captured:
            for _ in range(count):
                step(self.model, self.cache, self.steps)
        self.on_host.copy_(self.steps.written, non_blocking=True)
        if self.on_host.is_pinned():
            torch.accelerator.current_stream(self.steps.tokens.device).synchronize()
        return self.on_host[:, :count].tolist()

    def _replayed(self, captured: Captured, count: int) -> bool:
        """Replay steps; where that fails, the rows are as they were."""
        try:
            captured.run(self.cache, self.steps, count)
        except RuntimeError as error:
            _graphs.pop(self.model.net, None)
            refuse(self.model.net, "a replay", error)
            return False
        return True

    def select_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Continue with these rows only."""
        self.cache.select_rows(rows)
        tokens, positions, written, at = self.steps
        self.steps = Steps(tokens[rows], positions[rows], written[rows], at)
        self.on_host = self._pinned()

    def _pinned(self) -> Tensor:
        pin = self.steps.tokens.device.type == "cuda"
        return torch.empty(self.steps.written.shape, dtype=torch.int64, pin_memory=pin)


class Captured:
    """A step as a CUDA graph, for every cache of one shape.

    It reads where the cache's layers lie from a table, and where its tokens go from an index, both
    in memory of the graph.
    """

    def __init__(self, model: Model, cache: SlottedCache, steps: Steps, pool: Any) -> None:
        """Capture a step; the cache and `steps` do not change.

        `pool`: memory of another graph, which never replays at the same time, or None.
        """
        (since,) = cache.parts
        before = since.table(), since.index, since.used
        self.steps = Steps(*(each.clone() for each in steps))
        self.table, self.index = copy.copy(before[0]), since.index.clone()
        self.table.layers = self.table.layers.clone()
        self.graph = torch.cuda.CUDAGraph()
        since.point_to(self.table, self.index)
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # kernels compile and libraries start before
                for _ in range(2):
                    step(model, cache, self.steps)
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            with torch.cuda.graph(self.graph, pool, capture_error_mode="thread_local"):
                step(model, cache, self.steps)
        finally:
            since.point_to(*before[:2])
            since.used = before[2]

    def run(self, cache: SlottedCache, steps: Steps, count: int) -> None:
        """Take steps with a cache; the host only queues them.

        What counts the rows' tokens changes at the end. If a step fails, they have taken none.

        Args:
            cache: a cache of the captured shape.
            steps: memory of the rows; it receives what the steps wrote.
            count: number of steps.
        """
        (since,) = cache.parts
        pairs = [(self.table.layers, since.table().layers), (self.index, since.index)]
        pairs += list(zip(self.steps, steps, strict=True))
        for graph_side, cache_side in pairs:
            graph_side.copy_(cache_side)
        for _ in range(count):
            self.graph.replay()
        for graph_side, cache_side in pairs[1:]:
            cache_side.copy_(graph_side)
        since.used += count


Shape = tuple[object, ...]
_graphs: WeakKeyDictionary[PreTrainedModel, dict[Shape, Captured]] = WeakKeyDictionary()
_refused: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def captured(model: Model, cache: SlottedCache, steps: Steps, most: int) -> Captured | None:
    """Return the graph of this cache's shape, captured if need be.

    Args:
        model: the model.
        cache: the rows' cache.
        steps: memory that a step reads and writes.
        most: the most tokens that a row may still get.

    Returns:
        None where steps run operation by operation: off CUDA, on several devices, without kernels,
        for few tokens, and after a capture or a replay that failed, which logs one warning.
    """
    since, *others = cache.parts
    if others or since.index.device.type != "cuda" or since.kernels.kernels != "triton":
        return None
    return graph_of(model.net, since.shape, most, lambda pool: Captured(model, cache, steps, pool))


def graph_of(
    net: PreTrainedModel, shape: Shape, most: int, capture: Callable[[Any], Captured]
) -> Captured | None:
    """Return a model's graph of a shape; capture it if there is none and it pays.

    Args:
        net: the model's network.
        shape: of the cache and its rows.
        most: the most tokens that a row may still get.
        capture: captures a step; it takes the memory of another graph, or None.

    Returns:
        None for few tokens, and after a capture or a replay that failed: this model is not captured
        again.
    """
    graphs = _graphs.setdefault(net, {})
    if shape not in graphs and most >= WORTH and net not in _refused:
        try:
            pools = [each.graph.pool() for each in graphs.values()]
            graphs[shape] = capture(pools[-1] if pools else None)
            if len(graphs) > SHAPES:
                graphs.pop(next(iter(graphs)))
        except RuntimeError as error:
            refuse(net, "its capture", error)
    return graphs.get(shape)


def refuse(net: PreTrainedModel, what: str, error: RuntimeError) -> None:
    """Capture nothing of a model from now on, and log why.

    Args:
        net: the model's network.
        what: what failed.
        error: why it did.
    """
    _refused[net] = True
    why = str(error).split("\n", maxsplit=1)[0]
    log.warning("decoding runs without a CUDA graph: %s failed: %s", what, why)
