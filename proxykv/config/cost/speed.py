"""Seconds of a model's forwards on a device, from operations and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from proxykv.config.models import Shape
from proxykv.config.settings.signals import CHUNK, Signal

LOGIT_BYTES = 20
"""Moved for each attention logit of a sweep: product, mask, softmax in float32, product."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Device:
    """Speed of a device, and the share of it that this code reaches.

    Attributes:
        name: of the device.
        flops: peak operations per second by the bytes of a number.
        bandwidth: bytes of memory per second.
        used: share of `flops` that is reached.
        moved: share of `bandwidth` that is reached.
        launch: least seconds of a layer in a forward.
        replay: operations per second of a replay's attention, which is not causal, relative to
            those of a prefill.
        scored: bytes that each logit of a score moves.
    """

    name: str
    flops: Mapping[int, float]
    bandwidth: float
    used: float
    moved: float
    launch: float
    replay: float
    scored: float

    def times(self, count: int) -> Device:
        """The speed of several of these devices."""
        flops = {size: peak * count for size, peak in self.flops.items()}
        return replace(self, flops=flops, bandwidth=self.bandwidth * count)


GPU = Device("A100 of 80 GB", {2: 312e12, 4: 19.5e12}, 2.0e12, 0.6, 0.7, 1e-3, 0.6, 50)
CPU = Device("CPU thread with AVX-512", {2: 320e9, 4: 160e9}, 10e9, 0.5, 0.7, 2e-4, 1, 0)


class ModelCost:
    """Operations, bytes and seconds of a model's forwards."""

    def __init__(self, shape: Shape, dtype: str) -> None:
        """Compute sizes.

        Args:
            shape: of the model.
            dtype: "float32", "bfloat16" or "float16".
        """
        self.layers, self.parameters = shape["layers"], shape["parameters"]
        self.pairs = shape["layers"] * shape["kv_heads"]
        self.heads, self.dim = shape["layers"] * shape["query_heads"], shape["head_dim"]
        self.size = BYTES[dtype]

    @property
    def weights(self) -> int:
        """Bytes of the weights."""
        return self.parameters * self.size

    def cache(self, tokens: float) -> float:
        """Bytes of the keys and values of a number of tokens."""
        return 2 * self.pairs * tokens * self.dim * self.size

    def flops(self, queries: float, keys: float) -> float:
        """Operations of a forward of `queries` tokens that attend to `keys` tokens each.

        Args:
            queries: number of new tokens.
            keys: number of tokens that each of them attends to.
        """
        return 2 * self.parameters * queries + 4 * self.heads * self.dim * queries * keys

    def prefill_flops(self, n: float) -> float:
        """Operations of a causal forward of n tokens."""
        return self.flops(n, n / 2)

    def replay_flops(self, n: float, chunk: int = CHUNK, *, local: bool = False) -> float:
        """Operations of KVzip's replay of n tokens; scores reuse the products of its attention.

        Args:
            n: tokens of the context.
            chunk: tokens of a chunk.
            local: a token attends to its chunk and the replay of it, not to all n tokens.
        """
        return self.flops(n, _replay_keys(n, chunk, local))

    def signal_flops(self, signal: Signal, n: float) -> float:
        """Operations of a proxy's signal, with the prefill of the whole context if it reads one.

        Args:
            signal: what the proxy computes.
            n: tokens of the context.
        """
        match signal.kind:
            case "prefill":
                flops = self.prefill_flops(n)
            case "kvzip":
                flops = self.prefill_flops(n) + self.replay_flops(n, signal.chunk)
            case "local":
                flops = self.prefill_flops(n) + self.replay_flops(n, signal.chunk, local=True)
            case "windowed":
                windows, length = _windows(n, signal)
                read = self.prefill_flops(length + signal.overlap)
                flops = windows * read + self.replay_flops(n, ceil(length), local=True)
        return signal.layers * flops

    def prefill(self, n: float, device: Device) -> float:
        """Seconds of a causal forward of n tokens.

        Args:
            n: tokens of the context.
            device: where it runs.
        """
        return self._computing(self.prefill_flops(n), device)

    def replay(self, n: float, device: Device, chunk: int = CHUNK, *, local: bool = False) -> float:
        """Seconds of KVzip's replay of n tokens, with scores.

        Args:
            n: tokens of the context.
            device: where it runs.
            chunk: tokens of a chunk.
            local: a token attends to its chunk and the replay of it, not to all n tokens.
        """
        weights = self.flops(n, 0)
        attention = self.replay_flops(n, chunk, local=local) - weights
        logits = self.heads * n * 2 * min(chunk, ceil(n))
        moving = device.scored * logits / (device.bandwidth * device.moved)
        return self._computing(weights + attention / device.replay, device) + moving

    def signal(self, signal: Signal, n: float, device: Device) -> float:
        """Seconds of a proxy's signal, without the prefill of the whole context.

        Args:
            signal: what is computed.
            n: tokens of the context.
            device: where it runs.
        """
        match signal.kind:
            case "prefill":
                return 0.0
            case "kvzip":
                seconds = self.replay(n, device, signal.chunk)
            case "local":
                seconds = self.replay(n, device, signal.chunk, local=True)
            case "windowed":
                windows, length = _windows(n, signal)
                read = self.prefill(length + signal.overlap, device)
                seconds = windows * read + self.replay(n, device, ceil(length), local=True)
        return signal.layers * seconds

    def sweep(self, n: float, rows: int, tokens: float, device: Device) -> float:
        """Seconds of a forward of `tokens` new tokens for each of `rows` rows over one context.

        The rows share weights, keys and values, but not attention logits.

        Args:
            n: tokens of the context.
            rows: number of rows.
            tokens: new tokens of each row.
            device: where it runs.
        """
        queries = rows * tokens
        moved = self.weights + self.cache(n) + LOGIT_BYTES * self.heads * queries * n
        moving = moved / (device.bandwidth * device.moved)
        return max(self._computing(self.flops(queries, n), device), moving) + self._launch(device)

    def _computing(self, flops: float, device: Device) -> float:
        return flops / (device.flops[self.size] * device.used)

    def _launch(self, device: Device) -> float:
        return self.layers * device.launch


def _replay_keys(n: float, chunk: int, local: bool) -> float:
    """Tokens that a replayed one attends to, on average."""
    return 1.5 * min(chunk, ceil(n)) if local else n


def _windows(n: float, signal: Signal) -> tuple[int, float]:
    """How many windows of how many tokens a context is cut into."""
    windows = ceil(n / signal.chunk)
    return windows, n / windows
