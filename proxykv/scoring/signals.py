"""The proxy's signals: scores that it gives its own KV pairs, of which mappers make the target's.

`proxykv.config.settings.signals.Signal` names one. Signals that read the same prefill share it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

from proxykv.config.settings.signals import Signal
from proxykv.kernels.attention import window_attention
from proxykv.model.model import Model
from proxykv.model.prefill import Prefill, prefill
from proxykv.model.tensors import Ids, ProxySignal
from proxykv.scoring.kvzip import replay_of, replays, score_chunk, score_replays
from proxykv.scoring.timeline import Timeline


def proxy_signals(
    target: Model,
    proxy: Model,
    ids: Ids,
    prefix_len: int,
    signals: Iterable[Signal],
    timeline: Timeline | None = None,
) -> dict[Signal, ProxySignal]:
    """Score a context with the proxy, once per signal.

    Args:
        target: the target, whose tokenizer writes the replay requests.
        proxy: prefills and scores.
        ids: prefix + context (1-D), the target's token ids.
        prefix_len: tokens before the context.
        signals: what to compute.
        timeline: where the phases are recorded.

    Returns:
        For each signal, scores in [0, 1], [proxy_layer, proxy_head, token].
    """
    timeline = timeline or Timeline()
    prefills: dict[str, Prefill] = {}
    found: dict[Signal, ProxySignal] = {}
    for signal in sorted(set(signals)):
        reader = _lower_layers(proxy, signal.layers)
        prefill_name = signal.prefilled
        if prefill_name is not None and prefill_name not in prefills:
            with timeline.phase("proxy_prefill", proxy.device, prefill_name):
                prefills[prefill_name] = prefill(reader, ids, prefix_len)
        with timeline.phase("proxy_scoring", proxy.device, signal.name):
            if prefill_name is None:
                found[signal] = windowed_signal(target, reader, ids, prefix_len, signal)
            else:
                found[signal] = WHOLE[signal.kind](target, prefills[prefill_name], signal)
    return found


def kvzip_signal(target: Model, prefilled: Prefill, signal: Signal) -> ProxySignal:
    """KVzip on the proxy, with the target's replay inputs.

    Args:
        target: encodes the replay inputs.
        prefilled: the proxy's prefill.
        signal: the settings.
    """
    return score_replays(prefilled, replays(target, prefilled.context, signal.chunk))


def local_signal(target: Model, prefilled: Prefill, signal: Signal) -> ProxySignal:
    """KVzip on the proxy, each replay attending to {prefix, its chunk, itself} only.

    Args:
        target: encodes the replay inputs.
        prefilled: the proxy's prefill.
        signal: the settings.
    """
    return score_replays(prefilled, replays(target, prefilled.context, signal.chunk), local=True)


@torch.inference_mode()
def prefill_signal(target: Model, prefilled: Prefill, signal: Signal) -> ProxySignal:
    """Largest attention that each KV pair got from the context's last tokens during the prefill.

    The maximum over the queries that a prefill remembers and over the query heads of a KV head.
    It needs no second pass, but the end of the context decides what matters.

    Args:
        target: not used.
        prefilled: the proxy's prefill.
        signal: not used.
    """
    layers = []
    for layer in prefilled.cache.layers:
        assert layer.queries is not None
        heads = window_attention(layer.queries[0], layer.keys[0])
        best = torch.stack([weights.amax(dim=(0, 1)) for weights in heads])
        layers.append(best.to(prefilled.input_ids.device))
    return torch.stack(layers)[..., prefilled.prefix_len :]


def windowed_signal(
    target: Model, proxy: Model, ids: Ids, prefix_len: int, signal: Signal
) -> ProxySignal:
    """KVzip on windows of the context, each prefilled and replayed without the others.

    The context is cut into as few windows of at most `signal.chunk` tokens as possible, of equal
    lengths (to a token). A window's prefill sees {prefix, `signal.overlap` tokens, window}, at the
    positions that they would have in a text without the rest. Only the window's tokens are replayed
    and scored.

    Args:
        target: encodes the replay inputs.
        proxy: prefills and scores.
        ids: ids of prefix + context (1-D).
        prefix_len: tokens of the prefix.
        signal: the settings.
    """
    prefix, context = ids[:prefix_len], ids[prefix_len:]
    parts: list[ProxySignal] = []
    start = 0
    for window in context.tensor_split(math.ceil(len(context) / signal.chunk)):
        before = context[max(0, start - signal.overlap) : start]
        prefilled = prefill(proxy, torch.cat([prefix, before, window]), prefix_len)
        replay = replay_of(target, window, before)
        parts.append(score_chunk(prefilled, prefix_len + len(before), replay))
        start += len(window)
    return torch.cat(parts, dim=-1)


WHOLE: dict[str, Callable[[Model, Prefill, Signal], ProxySignal]] = {
    "kvzip": kvzip_signal,
    "local": local_signal,
    "prefill": prefill_signal,
}
"""Kinds of signals that read a prefill of the whole context."""


def _lower_layers(model: Model, share: float) -> Model:
    """The model's first layers; the weights are the same tensors.

    Args:
        model: with all layers.
        share: of the layers, in (0, 1], rounded up to a whole layer.
    """
    blocks: nn.ModuleList = model.net.base_model.layers  # type: ignore[assignment]
    count = math.ceil(share * len(blocks))
    if count == len(blocks):
        return model
    net, body = _shallow(model.net), _shallow(model.net.base_model)  # type: ignore[arg-type]
    config = copy.deepcopy(model.net.config)
    config.num_hidden_layers = count
    net.config = body.config = config
    body.layers = blocks[:count]
    setattr(net, net.base_model_prefix, body)
    return Model(net, model.tokenizer, model.prefix, model.suffix, model.digest, model.template)


def _shallow(module: PreTrainedModel) -> PreTrainedModel:
    """A copy whose submodules can be replaced without changing the original's."""
    shallow = copy.copy(module)
    shallow._modules = dict(module._modules)
    return shallow
