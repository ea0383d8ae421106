"""Any press of kvpress as a method: `kvpress:ExpectedAttentionPress` (github.com/NVIDIA/kvpress).

A press works while its model prefills. So the context is prefilled once more, with transformers'
own attention and the hooks of the press. From there come its scores or, under the scope `custom`,
the pairs that it keeps at a retention. The harness prunes and decodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from proxykv.model.devices import clock
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

    def __init__(self, context: MethodContext, name: str, **params: Any) -> None:
        """`params`: the press's own; a press among them is written `{name: SnapKVPress, …}`."""
        self.name, self.kvpress, self.ledger = name, _kvpress(), context.ledger
        self.press = self._made(name, **params)
        try:
            self.press.compression_ratio = 0.5
        except AttributeError:
            raise ConfigError(f"kvpress:{name}: it cannot be asked for a retention") from None

    def score(self, prefill: Prefill) -> Scores:
        """The press's scores, to be ranked under a scope of this harness.

        Args:
            prefill: the target's prefill.

        Raises:
            ConfigError: if the press chooses by itself, or its scores depend on the retention.
        """
        press = self.press
        layers: list[Tensor] = []

        def note(*layer: Any) -> tuple[Tensor, Tensor]:
            layers.append(press.score(*layer)[0, :, prefill.prefix_len :].float())
            _, _, keys, values, *_ = layer
            return keys, values

        if getattr(type(press), "compress", None) is not self.kvpress.ScorerPress.compress:
            raise ConfigError(f"kvpress:{self.name}: it chooses by itself; set `scope: custom`")
        press.compress = note
        press.compression_ratio = object()  # nothing that a press could calculate with
        try:
            self._prefill(prefill)
        except TypeError as error:
            raise ConfigError(
                f"kvpress:{self.name}: its scores depend on the retention; set `scope: custom`"
            ) from error
        finally:
            del press.compress
        return torch.stack(layers)

    def keep(self, prefill: Prefill, retention: float) -> Keep:
        """What the press keeps of the context.

        Its budget covers the prefix as well, which stays in any case. So the press gets the
        prefix's size on top. Where it spends that on the context, it runs a second time with less.

        Args:
            prefill: the target's prefill.
            retention: share of the KV pairs to keep, below 1.

        Raises:
            ConfigError: if the press keeps everything.
        """
        count = budget(retention, prefill.shape[2])
        kept = self._kept(prefill, count + prefill.prefix_len)
        surplus = kept.float().mean().item() * prefill.shape[2] - count
        if surplus > 0:
            kept = self._kept(prefill, count + prefill.prefix_len - surplus)
        if kept.all():
            raise ConfigError(f"kvpress:{self.name}: it keeps everything at retention {retention}")
        return kept

    def _kept(self, prefill: Prefill, count: float) -> Keep:
        """The context's part of what the press keeps of `count` tokens per head, on average."""
        before: dict[int, Int[Tensor, "kv_head token"]] = {}

        def mark(module: Any, _: Any, kwargs: Mapping[str, Any], __: Any) -> None:
            if module.layer_idx not in before:
                before[module.layer_idx] = _marks(kwargs["past_key_values"], module.layer_idx)

        hooks = [m.register_forward_hook(mark, with_kwargs=True) for m in _attention(prefill)]
        self.press.compression_ratio = 1 - (count + 0.5) / len(prefill.input_ids)  # it rounds down
        try:
            cache, masked = self._prefill(prefill)
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
            layers.append(kept[:, prefill.prefix_len :])
        return torch.stack(layers)

    @torch.inference_mode()
    def _prefill(self, prefill: Prefill) -> tuple[DynamicCache, list[Any]]:
        """Prefill under the press: its cache, and what each layer masks instead of dropping.

        The time of a plain prefill is not the press's.
        """
        start = clock(prefill.model.device)
        net, ids, cache = prefill.model.net, prefill.input_ids, DynamicCache()
        with _borrowed(prefill):
            with self.press(net):
                positions = torch.arange(len(ids), device=ids.device)
                prefill.model.hidden(ids[None], positions[None], cache)
            masked = [getattr(m, "masked_key_indices", None) for m in _attention(prefill)]
        self.ledger.waive(min(prefill.seconds, clock(prefill.model.device) - start))
        return cache, masked

    def _made(self, name: str, **params: Any) -> Any:
        """A press from its name and parameters."""
        kind = getattr(self.kvpress, name, None)
        if not (isinstance(kind, type) and issubclass(kind, self.kvpress.BasePress)):
            raise ConfigError(f"kvpress has no press {name!r}")
        inner = {k: v for k, v in params.items() if isinstance(v, Mapping) and "name" in v}
        try:
            return kind(**params | {k: self._made(**v) for k, v in inner.items()})
        except (TypeError, AssertionError) as error:
            raise ConfigError(f"kvpress:{name}: {error}") from error


def _kvpress() -> ModuleType:
    """The package, without the effect of its import, which wraps all attention functions there are.

    The wrappers do not know caches that are not tensors, and serve only to decode with kvpress.
    """
    functions = dict(ALL_ATTENTION_FUNCTIONS)
    try:
        return import_module("kvpress")
    except ImportError as error:
        how = VARIANTS["kvpress:"]["install"]
        raise ConfigError(f"kvpress: {error}; it needs older packages: {how}") from error
    finally:
        for name, function in functions.items():
            ALL_ATTENTION_FUNCTIONS[name] = function


def _attention(prefill: Prefill) -> list[nn.Module]:
    """The model's attention modules, by layer."""
    return [layer.self_attn for layer in prefill.model.net.base_model.layers]  # type: ignore


@contextmanager
def _borrowed(prefill: Prefill) -> Iterator[None]:
    """The model on transformers' attention; changes that a press makes to it are undone."""
    net, modules = prefill.model.net, _attention(prefill)
    implementation: Any = net.config._attn_implementation
    before = [(set(vars(module)), set(module._modules)) for module in modules]
    net.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        net.set_attn_implementation(implementation)
        for module, (attributes, parts) in zip(modules, before, strict=True):
            for name in [*(set(vars(module)) - attributes), *(set(module._modules) - parts)]:
                delattr(module, name)


def _marks(cache: DynamicCache, layer: int) -> Int[Tensor, "kv_head token"]:
    """A number for each pair of a layer, by which it is known again: a hash of its bits."""
    stored: Any = cache.layers[layer]
    pairs = torch.cat([stored.keys[0], stored.values[0]], dim=-1).contiguous()
    bits = pairs.view({2: torch.int16, 4: torch.int32}[pairs.element_size()]).long()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, bits.shape[-1:], generator=generator)
    return (bits * weights.to(bits.device)).sum(dim=-1)


METHOD = KVPress
