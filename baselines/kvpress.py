"""Any press of kvpress as a method: `kvpress:ExpectedAttentionPress` (github.com/NVIDIA/kvpress).

The context is prefilled once more, under the press. From there come the press's scores or, under
the scope `custom`, the pairs that it keeps at a retention. The harness prunes and decodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import DynamicCache

from baselines._press import Press, PressFiles, attention_of
from proxykv.model.prefill import Prefill
from proxykv.model.tensors import Keep, Scores
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.selection import budget

VARIANTS = {
    "kvpress:": {
        "scope": "head",
        "sets": ["compression_ratio"],
        "install": "run `make parity`, then `. .venv-kvpress/bin/activate`",
    }
}
CARDS = {
    "kvpress:": {
        "label": "kvpress:<Press>",
        "role": "baseline",
        "about": "any press of kvpress that drops KV pairs (`make parity` builds its environment)",
        "cost": ["target_prefill"],
    },
}


class KVPress:
    """A press, by its name."""

    def __init__(
        self,
        context: MethodContext,
        name: str,
        at: Sequence[Mapping[str, Any]] = (),
        attention: Literal["sdpa", "eager"] = "sdpa",
        press_files: PressFiles | None = None,
        **params: Any,
    ) -> None:
        """Make the press.

        Args:
            context: what the method may use.
            name: the press's class in kvpress.
            at: for a press that has thresholds in place of a compression ratio: its parameters at
                each retention of the run, `{retention: 0.3, threshold: -2.5}`. What it keeps then
                is the press's choice, and rows have the share in `achieved_retention`.
            attention: transformers' attention under the press; `eager` for presses that read
                attention weights, whose memory grows with the square of the length.
            press_files: weights that the press loads besides the model's.
            params: the press's own; a press among them is written `{name: SnapKVPress, …}`.

        Raises:
            ConfigError: if kvpress has no such press, or it cannot be asked for a retention.
        """
        self.name = name

        def made(**more: Any) -> Press:
            return Press(name, context.ledger, attention, press_files, **params, **more)

        self.at = {
            entry["retention"]: made(**{k: v for k, v in entry.items() if k != "retention"})
            for entry in at
        }
        self.press = next(iter(self.at.values())) if at else made()
        if not at and not _takes_a_ratio(self.press.press):
            raise ConfigError(
                f"kvpress:{name}: it cannot be asked for a retention; list its parameters at each "
                "retention in `at`"
            )

    def score(self, prefill: Prefill) -> Scores:
        """The press's scores, to be ranked under a scope of this harness.

        Args:
            prefill: the target's prefill.

        Raises:
            ConfigError: if the press chooses by itself, or its scores depend on the retention.
        """
        press = self.press.press
        layers: list[Tensor] = []

        def note(*layer: Any) -> tuple[Tensor, Tensor]:
            layers.append(press.score(*layer)[0, :, prefill.prefix_len :].float())
            _, _, keys, values, *_ = layer
            return keys, values

        if getattr(type(press), "compress", None) is not self.press.package.ScorerPress.compress:
            raise ConfigError(f"kvpress:{self.name}: it chooses by itself; set `scope: custom`")
        press.compress = note
        press.compression_ratio = object()  # nothing that a press could calculate with
        try:
            with self._its_errors():
                self.press.prefill(prefill)
        except TypeError as error:
            raise ConfigError(
                f"kvpress:{self.name}: its scores depend on the retention; set `scope: custom`"
            ) from error
        finally:
            del press.compress
        return torch.stack(layers)

    def keep(self, prefill: Prefill, retention: float) -> Keep:
        """What the press keeps of the context.

        A budget covers the prefix as well, which stays in any case. So the press gets the
        prefix's size on top. Where it spends that on the context, it runs a second time with less.

        Args:
            prefill: the target's prefill.
            retention: share of the KV pairs to keep, below 1.

        Raises:
            ConfigError: if the press keeps everything, or `at` lacks the retention.
        """
        if self.at:
            if retention not in self.at:
                raise ConfigError(
                    f"kvpress:{self.name}: `at` has no entry of retention {retention}"
                )
            return self._kept(prefill, self.at[retention])
        count = budget(retention, prefill.shape[2])
        kept = self._kept_of(prefill, count + prefill.prefix_len)
        surplus = kept.float().mean().item() * prefill.shape[2] - count
        if surplus > 0:
            kept = self._kept_of(prefill, count + prefill.prefix_len - surplus)
        if kept.all():
            raise ConfigError(f"kvpress:{self.name}: it keeps everything at retention {retention}")
        return kept

    def _kept_of(self, prefill: Prefill, count: float) -> Keep:
        """What the press keeps of `count` tokens per head, on average."""
        ratio = 1 - (count + 0.5) / len(prefill.input_ids)  # it rounds down
        self.press.press.compression_ratio = ratio
        return self._kept(prefill, self.press)

    def _kept(self, prefill: Prefill, press: Press) -> Keep:
        """The context's part of what a press leaves."""
        before: dict[int, Int[Tensor, "kv_head token"]] = {}

        def mark(module: Any, _: Any, kwargs: Mapping[str, Any], __: Any) -> None:
            if module.layer_idx not in before:
                before[module.layer_idx] = _marks(kwargs["past_key_values"], module.layer_idx)

        hooks = [m.register_forward_hook(mark, with_kwargs=True) for m in attention_of(prefill)]
        try:
            with self._its_errors():
                cache, masked = press.prefill(prefill)
        except TypeError as error:
            raise ConfigError(f"kvpress:{self.name}: {error}") from error
        finally:
            for hook in hooks:
                hook.remove()
        layers: list[Bool[Tensor, "kv_head token"]] = []
        for layer, without in enumerate(masked):
            after = _marks(cache, layer)
            kept = torch.stack(
                [torch.isin(a, b) for a, b in zip(before[layer], after, strict=True)]
            )
            if kept.sum() != after.numel():
                raise ConfigError(f"kvpress:{self.name}: it alters the pairs that it keeps")
            if without is not None:
                _, heads, tokens = without
                kept[heads, tokens] = False
            layers.append(kept[:, prefill.prefix_len :].to(prefill.input_ids.device))
        return torch.stack(layers)

    @contextmanager
    def _its_errors(self) -> Iterator[None]:
        """Errors of the press as one line; lack of memory and wrong types are for the caller."""
        try:
            yield
        except (torch.OutOfMemoryError, TypeError):
            raise
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(f"kvpress:{self.name}: {reason or type(error).__name__}") from error


def _takes_a_ratio(press: Any) -> bool:
    """Whether a press can be asked for a compression ratio."""
    try:
        press.compression_ratio = 0.5
    except AttributeError:
        return False
    return True


def _marks(cache: DynamicCache, layer: int) -> Int[Tensor, "kv_head token"]:
    """A number for each pair of a layer, by which it is known again: a hash of its bits."""
    stored: Any = cache.layers[layer]
    pairs = torch.cat([stored.keys[0], stored.values[0]], dim=-1).contiguous()
    bits = pairs.view({2: torch.int16, 4: torch.int32}[pairs.element_size()]).long()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, bits.shape[-1:], generator=generator)
    return (bits * weights.to(bits.device)).sum(dim=-1)


METHOD = KVPress
