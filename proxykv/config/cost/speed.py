"""Seconds of a model's forwards on a device, from operations and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from proxykv.config.models import Shape
from proxykv.config.settings.signals import CHUNK, Signal

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Device:
    """Speed of a device, and the share of it that this code reaches.

    Attributes:
        name: of the device.
        flops: peak operations per second by the bytes of a number.
        bandwidth: bytes of memory per second.
        used: share of `flops` that linear layers reach, and causal attention on a GPU.
        attended: share of `flops` that attention of a replay and of the rows of a sweep reaches,
            by head size; sizes that are not named reach as much as the next smaller one.
        moved: share of `bandwidth` that is reached.
        logit: bytes that each attention logit of a sweep moves.
        small: seconds of a layer's other operations (norms, RoPE, activations) in a decoding step.
        launch: least seconds of a layer in a forward that the host starts operation by operation.
        attends_in: bytes of the numbers in which all attention computes; None: the model's.
    """

    name: str
    flops: Mapping[int, float]
    bandwidth: float
    used: float
    attended: Mapping[int, float]
    moved: float
    logit: float
    small: float
    launch: float
    attends_in: int | None = None

    def times(self, count: int) -> Device:
        """The speed of several of these devices."""
        flops = {size: peak * count for size, peak in self.flops.items()}
        name = self.name if count == 1 else f"{count} x {self.name}"
        return replace(self, name=name, flops=flops, bandwidth=self.bandwidth * count)

    def attention(self, size: int, dim: int) -> float:
        """Operations per second of attention that is not causal.

        Args:
            size: bytes of a number.
            dim: numbers of a key of one head.
        """
        known = max((d for d in self.attended if d <= dim), default=min(self.attended))
        return self.flops[self.attends_in or size] * self.attended[known]

    def causal(self, size: int, dim: int) -> float:
        """Operations per second of causal attention.

        Args:
            size: bytes of a number.
            dim: numbers of a key of one head.
        """
        return self.attention(size, dim) if self.attends_in else self.flops[size] * self.used


GPU = Device(
    "A100 of 80 GB",
    {2: 312e12, 4: 19.5e12},
    2.0e12,
    # A prefill of 8B took 0.55 and 3.63 s at 16k and 64k on an H200 (989 T).
    used=0.6,
    # A replay's attention and scores of a layer and chunk on an H100 (989 T), in one Triton kernel
    # each, took 1.57 to 1.59 times their operations at 800 T with heads of 128 and 1.91 to 2.03
    # times with heads of 64: 800 / 1.58 / 989 and 800 / 1.97 / 989.
    attended={64: 0.41, 128: 0.51},
    # A copy on that H100 moved 2.44 of 3.35 TB/s.
    moved=0.73,
    # Kernels keep logits on the chip.
    logit=0,
    # Steps in a CUDA graph took 0.9 to 2.9 ms (2.0 on average) longer than their bytes, 32 layers.
    small=6.5e-5,
    # The host of an H100 took 2 to 4 ms, a fast one takes less than one.
    launch=1e-3,
)
CPU = Device(
    "CPU thread with AVX-512",
    {2: 320e9, 4: 160e9},
    10e9,
    # A thread with avx512_bf16 did 92 G of linear layers in float32, 188 G in bfloat16, and 70 G of
    # attention in both.
    used=0.58,
    attended={1: 0.44},
    attends_in=4,
    moved=0.7,
    # Product, mask, softmax in float32, product.
    logit=20,
    small=2e-4,
    launch=0,
)


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
        """Operations of KVzip's replay of n tokens, without the second product for its scores.

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
        linear = self.flops(n, 0)
        attention = self.prefill_flops(n) - linear
        return self._computing(linear, device) + attention / device.causal(self.size, self.dim)

    def replay(self, n: float, device: Device, chunk: int = CHUNK, *, local: bool = False) -> float:
        """Seconds of KVzip's replay of n tokens, with scores.

        Args:
            n: tokens of the context.
            device: where it runs.
            chunk: tokens of a chunk.
            local: a token attends to its chunk and the replay of it, not to all n tokens.
        """
        linear = self.flops(n, 0)
        attention = self.replay_flops(n, chunk, local=local) - linear
        # Column maxima: logits once more, over the chunk and the replay of it.
        columns = 2 * self.heads * self.dim * n * _replay_keys(n, chunk, local=True)
        return self._computing(linear, device) + self._attending(attention + columns, device)

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

    def step(self, n: float, rows: int, device: Device, *, captured: bool = True) -> float:
        """Seconds of a decoding step of `rows` rows over one context.

        Args:
            n: tokens of the context.
            rows: number of rows.
            device: where it runs.
            captured: a GPU replays the step as a graph, so that the host does not limit it.
        """
        seconds = self._rows(n, rows, device) + self.layers * device.small
        return seconds if captured else max(seconds, self.layers * device.launch)

    def read(self, n: float, rows: int, tokens: float, device: Device) -> float:
        """Seconds of a forward of `tokens` new tokens for each of `rows` rows over one context.

        Args:
            n: tokens of the context.
            rows: number of rows.
            tokens: new tokens of each row.
            device: where it runs.
        """
        seconds = self._rows(n, rows * tokens, device) + self.layers * device.small
        return max(seconds, self.layers * device.launch)

    def _rows(self, n: float, queries: float, device: Device) -> float:
        """Linear layers, then attention: each takes the longer of its operations and bytes.

        Rows share weights, keys and values, but not attention logits.
        """
        bandwidth = device.bandwidth * device.moved
        linear = self.flops(queries, 0)
        attention = self.flops(queries, n) - linear
        moved = self.cache(n) + device.logit * self.heads * queries * n
        return max(self._computing(linear, device), self.weights / bandwidth) + max(
            self._attending(attention, device), moved / bandwidth
        )

    def _computing(self, flops: float, device: Device) -> float:
        return flops / (device.flops[self.size] * device.used)

    def _attending(self, flops: float, device: Device) -> float:
        return flops / device.attention(self.size, self.dim)


def _replay_keys(n: float, chunk: int, local: bool) -> float:
    """Tokens that a replayed one attends to, on average."""
    return 1.5 * min(chunk, ceil(n)) if local else n


def _windows(n: float, signal: Signal) -> tuple[int, float]:
    """How many windows of how many tokens a context is cut into."""
    windows = ceil(n / signal.chunk)
    return windows, n / windows
