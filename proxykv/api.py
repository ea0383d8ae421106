"""ProxyKV from Python: load a pair with its mapper, prune a context, ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from proxykv.mapper.hybrid import Mapper, load_mapper
from proxykv.model.loading import (
    Model,
    context_ids,
    load_model,
    require_shared_vocabulary,
    vocabulary_hash,
    weights_digest,
)
from proxykv.model.pruned_cache import PrunedCache
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.proxy_pipeline import Schedule, prefill_and_score
from proxykv.scoring.selection import Scope, select
from proxykv.scoring.timeline import Timeline


def load_pair(
    target: str | Path,
    proxy: str | Path,
    mapper: str | Path,
    *,
    device: str = "auto",
    proxy_device: str | None = None,
    schedule: Schedule = "sequential",
) -> Pair:
    """Load a target, its proxy, and the mapper that was trained for exactly these two.

    Precision and chat template are the ones of the mapper's training, as its card says.

    Args:
        target: transformers folder (safetensors and tokenizer).
        proxy: the same for the small model.
        mapper: folder of a trained mapper.
        device: the target's; `auto` is the machine's accelerator if it has one.
        proxy_device: the proxy's and the mapper's, if it is another one.
        schedule: `parallel` lets the proxy score while the target prefills.

    Raises:
        ConfigError: if a folder is not what it should be, or the mapper is another pair's.
    """
    folders = {"target": Path(target), "proxy": Path(proxy)}
    # Digests first: a wrong pair is refused before its weights are loaded.
    pair = {f"{role}_hash": weights_digest(folder) for role, folder in folders.items()}
    trained, card = load_mapper(Path(mapper), expected=pair)
    places = {"target": device, "proxy": proxy_device or device}
    models = {
        role: load_model(folder, device=places[role], **_prompting(card["models"][role]))
        for role, folder in folders.items()
    }
    tokenizer = models["target"].tokenizer
    require_shared_vocabulary(tokenizer, models["proxy"].tokenizer)
    if vocabulary_hash(tokenizer) != card["vocab_hash"]:
        raise ConfigError(f"{mapper}: mapper was trained with another tokenizer than {target} has")
    trained = trained.to(models["proxy"].device)
    return Pair(models["target"], models["proxy"], trained, card, schedule)


@dataclass(frozen=True)
class Pair:
    """A target with the proxy and the mapper that score for it; `card` is the mapper's."""

    target: Model
    proxy: Model
    mapper: Mapper
    card: Mapping[str, Any]
    schedule: Schedule = "sequential"

    def prune(self, text: str, retention: float, scope: Scope = "global") -> PrunedContext:
        """Read a text and keep the share `retention` of its KV pairs, in (0, 1].

        `scope`: whether one budget is shared by all heads, by a layer's, or every head has its own.

        Raises:
            ValueError: if the text is empty, or retention or scope is not valid.
            SideError: in the parallel schedule, naming the model that failed.
        """
        target = self.target
        ids, prefix_len = context_ids(target, text), len(target.prefix)
        maps = {"proxykv": self.mapper.score}
        seen = self.card["training"]["signal"]
        request = prefill_and_score(
            target, self.proxy, ids, prefix_len, maps, self.schedule, signal=seen
        )
        timeline = request.timeline
        with timeline.phase("select", target.device):
            scores = request.mapped["proxykv"].to(target.device)
            keep = select(scores, retention, scope)
        with timeline.phase("prune", target.device):
            cache = PrunedCache(request.prefill.cache, prefix_len, keep)
        return PrunedContext(target, cache, len(ids), keep.float().mean().item(), timeline)


@dataclass(frozen=True)
class PrunedContext:
    """A text that the target has read, of which it keeps a part; the rest's memory is free.

    `tokens`: prefix and context before pruning; `retention`: share of the context's KV pairs that
    is left; `timeline`: what reading and pruning did when.
    """

    model: Model
    cache: PrunedCache
    tokens: int
    retention: float
    timeline: Timeline

    @torch.inference_mode()
    def ask(self, question: str, max_new_tokens: int = 128) -> str:
        """The target's greedy answer; nothing of it is left when the next question comes.

        Raises:
            ValueError: if there is nothing to read after the context.
        """
        model, device = self.model, self.model.device
        ids = [*model.encode(question), *model.suffix]
        if not ids:
            raise ValueError("the question is empty: there is nothing to answer")
        self.cache.reset()
        where, written = self.tokens, []
        while len(written) < max_new_tokens:
            places = torch.arange(where, where + len(ids), device=device)
            hidden = model.hidden(torch.tensor([ids], device=device), places[None], self.cache)
            token = int(model.logits(hidden[:, -1]).argmax())
            if token in model.stop_ids:
                break
            written.append(token)
            where, ids = where + len(ids), [token]
        return model.decode(written)


def _prompting(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a model's numbers, of its entry in a family file."""
    settings = ("dtype", "chat", "chat_options", "rope_scaling")
    return {name: entry[name] for name in settings if name in entry}
