"""ProxyKV from Python: load a pair with its mapper, prune a context, ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxykv.config.catalog import Method, methods_of
from proxykv.config.cost.placement import devices_of, local_layer_devices
from proxykv.config.keys.model_files import ModelFiles
from proxykv.mapper.fitted import load_card, require_pair
from proxykv.model.caches.pruned import PrunedCache
from proxykv.model.decode import answer_from
from proxykv.model.loading import load_model
from proxykv.model.model import Model, context_ids
from proxykv.model.prompt.tokenizer import load_tokenizer
from proxykv.model.prompt.vocabulary import require_shared_vocabulary
from proxykv.model.tensors import Keep
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.engine import Engine
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.proxy import Proxy, Schedule
from proxykv.scoring.selection import Scope
from proxykv.scoring.timeline import Timeline

METHOD = "proxykv"


def load_pair(
    target: str | Path,
    proxy: str | Path,
    mapper: str | Path,
    *,
    device: str = "auto",
    proxy_device: str | None = None,
    schedule: Schedule = "sequential",
    rivals: Sequence[str] = (),
) -> Pair:
    """Load a target, its proxy, and the mapper that was trained for exactly these two.

    Precision and chat template are those of the mapper's training; its card states them.

    Args:
        target: transformers folder (safetensors and tokenizer).
        proxy: the same for the small model.
        mapper: folder of a trained mapper.
        device: the target's device; `auto` is the machine's accelerator if it has one; several
            (`cuda:0,cuda:1`) share the target's layers.
        proxy_device: device of the proxy and the mapper, if it is another one than the target's
            last.
        schedule: `parallel` lets the proxy score while the target prefills.
        rivals: ids of other methods that `Pair.prune` can use (`proxykv methods` lists them), of
            those that need no fitted folder.

    Raises:
        ConfigError: if a folder is not what it should be, the mapper belongs to another pair, or a
            rival is unknown or needs a fitted folder.
    """
    methods = {**methods_of([METHOD]), **_rivals(rivals)}
    folders = {"target": Path(target), "proxy": Path(proxy)}
    card = load_card(Path(mapper))
    pair: dict[str, str] = {}
    # Digests first: a wrong pair is refused before its weights are loaded.
    for role, folder in folders.items():
        pair |= ModelFiles(folder, card["models"][role]).pair_entries(role)
    require_shared_vocabulary(*map(load_tokenizer, folders.values()))
    require_pair(Path(mapper), card, pair)
    settings = {role: _prompting(card["models"][role]) for role in folders}
    home, *others = devices_of({"device": device})
    small_home = proxy_device or [home, *others][-1]
    layers = local_layer_devices(
        folders,
        {
            "target": {**settings["target"], "device": device},
            "proxy": {**settings["proxy"], "device": small_home},
        },
    )
    models = {
        "target": load_model(folders["target"], device=home, layers=layers, **settings["target"]),
        "proxy": load_model(folders["proxy"], device=small_home, **settings["proxy"]),
    }
    ledger = Ledger()
    small = Proxy(lambda: models["proxy"], ledger)
    context = MethodContext(
        fitted={METHOD: Path(mapper)},
        proxy=small,
        methods=methods,
        pair=pair,
        seed=0,
        ledger=ledger,
    )
    return Pair(models["target"], Engine(context, small, schedule), card)


@dataclass(frozen=True)
class Pair:
    """A target, with the engine whose proxy and mapper score for it.

    Attributes:
        target: reads and answers.
        engine: scores contexts.
        card: the mapper's card.
    """

    target: Model
    engine: Engine
    card: Mapping[str, Any]

    def prune(
        self, text: str, retention: float, scope: Scope = "global", method: str = METHOD
    ) -> PrunedContext:
        """Read a text and keep the share `retention` of its KV pairs.

        Args:
            text: the context.
            retention: share of the KV pairs to keep, in (0, 1].
            scope: whether all heads share one budget (`global`), the heads of a layer (`layer`),
                or every head has an equal one (`head`).
            method: `proxykv`, or one of the rivals that the pair was loaded with.

        Raises:
            ValueError: if the text is empty, or retention, scope or method is not valid.
            SideError: in the parallel schedule, naming the model that failed.
        """
        if method not in self.engine.methods:
            loaded = ", ".join(self.engine.methods)
            raise ValueError(f"method {method!r} was not loaded with the pair, only {loaded}")
        work = self.engine.read(self.target, context_ids(self.target, text), [method])
        cache, keep = work.prune(method, retention, scope)
        tokens = len(work.prefill.input_ids)
        return PrunedContext(self.target, text, cache, tokens, keep, work.timeline)

    def __call__(
        self,
        context: str,
        *,
        compression_ratio: float,
        question: str | None = None,
        questions: Sequence[str] | None = None,
        answer_prefix: str = "",
        max_new_tokens: int = 50,
        method: str = METHOD,
        scope: Scope = "global",
    ) -> dict[str, str] | dict[str, list[str]]:
        """Prune a context and answer, in the form of kvpress' text-generation pipeline.

        So code that evaluates a press evaluates this pair as well.

        Args:
            context: the text that is pruned.
            compression_ratio: share of its KV pairs to drop, in [0, 1): 1 − retention.
            question: one question about it; or several in `questions`.
            questions: each is answered as if it were the only one.
            answer_prefix: text that every answer is made to begin with.
            max_new_tokens: the most tokens of an answer.
            method: `proxykv`, or one of the rivals that the pair was loaded with.
            scope: what shares one budget (see `prune`); most presses of kvpress have `head`.

        Returns:
            `{"answer": text}` for one question, `{"answers": texts}` for several.

        Raises:
            ValueError: if both or none of question and questions are given, or as `prune`.
        """
        if (question is None) == (questions is None):
            raise ValueError("give either question or questions")
        pruned = self.prune(context, 1 - compression_ratio, scope, method)
        asked = [question] if question is not None else questions or []
        answers = [pruned.ask(text, max_new_tokens, answer_prefix) for text in asked]
        return {"answer": answers[0]} if question is not None else {"answers": answers}


@dataclass(frozen=True)
class PrunedContext:
    """A text that the target has read, of which it keeps a part; the other part's memory is free.

    Attributes:
        model: the target.
        text: the context.
        cache: the kept keys and values.
        tokens: prefix and context before pruning.
        keep: mask of the KV pairs that are left, [layer, kv_head, token of the context].
        timeline: start and end of every phase of reading and pruning.
    """

    model: Model
    text: str
    cache: PrunedCache
    tokens: int
    keep: Keep
    timeline: Timeline

    @property
    def retention(self) -> float:
        """Share of the context's KV pairs that is left."""
        return self.keep.float().mean().item()

    def ask(self, question: str, max_new_tokens: int = 128, start: str = "") -> str:
        """Answer a question greedily; questions do not influence one another.

        Args:
            question: text of the question.
            max_new_tokens: the most tokens of the answer.
            start: text that the answer is made to begin with; it is not returned.

        Raises:
            ValueError: if there is nothing to read after the context.
        """
        prompt = self.model.question(question, start=start, context=self.text)
        if not prompt:
            raise ValueError("the question is empty: there is nothing to answer")
        ids = answer_from(self.model, self.cache, self.tokens, prompt, max_new_tokens)
        return self.model.decode(ids)


def _rivals(methods: Sequence[str]) -> Mapping[str, Method]:
    """Methods by id, if they prune and need nothing fitted."""
    found = methods_of(methods)
    for name in methods:
        known = found.get(name)
        if known is None or known.scope == "none":
            raise ConfigError(f"rivals: {name!r} is no method that prunes (see `proxykv methods`)")
        if known.fitted_id is not None or known.uses:
            raise ConfigError(f"rivals: {name!r} needs a fitted folder; run it in the workflow")
    return found


def _prompting(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a family file's entry that decide a model's numbers."""
    settings = ("dtype", "chat", "chat_options", "rope_scaling")
    return {name: entry[name] for name in settings if name in entry}
