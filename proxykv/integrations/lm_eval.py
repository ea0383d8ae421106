"""lm-eval as a front door: any generative task of its, answered from a pruned context.

lm-eval knows models by a registry in memory, so `lm_eval --model proxykv` cannot find this one;
`proxykv lm-eval …` registers it and hands over to lm-eval's own command line.
"""

# lm-eval's own annotations are narrower than what it hands over.
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from proxykv.config.run import methods_of
from proxykv.model.decode import TokenizedQuestion
from proxykv.model.loading import (
    Model,
    context_ids,
    load_model,
    require_shared_vocabulary,
    weights_digest,
)
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.engine import Engine
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.proxy import Proxy

TASKS = Path(__file__).with_name("lm_eval_tasks")
"""The benchmarks of this project as lm-eval tasks."""

BATCH_ROWS = 32
"""Answers that decode together."""

MAX_NEW_TOKENS = 256
"""Of a task that sets no limit, as lm-eval's own models have it."""


def run(arguments: Sequence[str]) -> None:
    """Run lm-eval's command line with this model, and with this project's tasks beside its own."""
    from lm_eval.__main__ import cli_evaluate  # noqa: PLC0415 (it reads its arguments when it runs)

    own = ["run", "--model", "proxykv", "--include_path", str(TASKS)]
    sys.argv = ["lm_eval", *own, *arguments]
    cli_evaluate()


@register_model("proxykv")
class PrunedLM(LM):
    """A target that reads a context once, prunes it, and answers all questions about it."""

    def __init__(
        self,
        target: str,
        proxy: str | None = None,
        mapper: str | None = None,
        method: str = "proxykv",
        retention: float = 0.3,
        marker: str | None = None,
        chat_options: Mapping[str, Any] | None = None,
        dtype: str = "float32",
        device: str = "auto",
        seed: int = 0,
        **_: Any,
    ) -> None:
        """What `--model_args` may hold; whatever lm-eval adds of its own is not needed.

        Args:
            target: transformers folder of the model that answers.
            proxy: the same of the small model, for methods that ask one.
            mapper: folder of a fitted method (a mapper's for ProxyKV).
            method: id of a method, such as proxykv, kvzip or snapkv.
            retention: share of the context's KV pairs to keep, in (0, 1].
            marker: text that ends the context in every prompt, and is not shown to the model;
                without it, the prompt is split after the document's field `context`.
            chat_options: variables for the chat template, with `--apply_chat_template`.
            dtype: of both models.
            device: of both models; `auto` is the machine's accelerator if it has one.
            seed: of what methods draw at random.

        Raises:
            ConfigError: if something that the method needs is missing or does not fit.
        """
        super().__init__()
        self.method, self.marker = methods_of([method])[method], marker
        # The full cache is kept whole, whatever the retention.
        self.retention = 1.0 if self.method.scope == "none" else float(retention)
        self.chat_options = dict(chat_options or {})
        if self.method.uses:
            raise ConfigError(f"method {method!r} combines others: run it in a workflow")
        if self.method.fitted_id and not (mapper and proxy):
            raise ConfigError(f"method {method!r} is fitted: model_args need proxy= and mapper=")
        self.model = load_model(Path(target), dtype=dtype, device=device)
        self.templated = False
        self.engine = self._engine(proxy, mapper, dtype, device, int(seed))

    def _engine(
        self, proxy: str | None, mapper: str | None, dtype: str, device: str, seed: int
    ) -> Engine:
        def load_proxy() -> Model:
            model = load_model(Path(str(proxy)), dtype=dtype, device=device)
            require_shared_vocabulary(self.model.tokenizer, model.tokenizer)
            return model

        ledger = Ledger()
        small = Proxy(load_proxy, ledger)
        context = MethodContext(
            fitted={str(self.method.fitted_id): Path(str(mapper))},
            proxy=small,
            methods={self.method.id: self.method},
            pair={
                "target_hash": self.model.digest,
                "proxy_hash": weights_digest(Path(proxy)) if proxy else "",
            },
            seed=seed,
            ledger=ledger,
        )
        return Engine(context, small, "sequential")

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval tells apart its caches of requests by."""
        return self.model.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's template, where lm-eval is told to use it."""
        return self.model.tokenizer.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A prompt in the tokenizer's chat template."""
        if not self.templated:
            self.model = self.model.with_template(self.chat_options)
            self.templated = True
        return self.model.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self.chat_options,
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers; requests in a row about one context share its prefill and its pruning.

        Raises:
            ConfigError: if a prompt cannot be split, or a task wants to sample.
        """
        texts: list[str] = []
        split = [(*self._split(request), request) for request in requests]
        for context, group in groupby(split, key=lambda part: part[0]):
            asked = [(question, request) for _, question, request in group]
            for text, (_, request) in zip(self._answers(context, asked), asked, strict=True):
                self.cache_hook.add_partial("generate_until", request.args, text)
                texts.append(text)
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered: raises ConfigError."""
        raise ConfigError("proxykv answers generative tasks only (generate_until)")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Not offered: raises ConfigError."""
        raise ConfigError("proxykv answers generative tasks only (generate_until)")

    def _split(self, request: Instance) -> tuple[str, str]:
        """Context (with what is before it) and question of a prompt."""
        prompt = request.args[0]
        border = self.marker or request.doc.get("context")
        if not border or border not in prompt:
            raise ConfigError(
                f"task {request.task_name}: cannot tell the context from the question; its "
                "documents have no field `context`, so give model_args marker=<text between them>"
            )
        before, _, after = prompt.partition(border)
        return (before if self.marker else before + border), after

    def _answers(self, context: str, asked: list[tuple[str, Instance]]) -> list[str]:
        model = self.model
        opening = model.tokenizer.decode(list(model.prefix)) if self.templated else ""
        ids = context_ids(model, context.removeprefix(opening))
        work = self.engine.read(model, ids, [self.method.id])
        (pruning,) = work.prunings([(self.method, self.retention)])
        # The chat template's closing part is in the prompt already.
        questions = [
            TokenizedQuestion(model.encode(question), (), _limit(request.args[1]))
            for question, request in asked
        ]
        answers = work.answers([pruning.keep], questions, BATCH_ROWS)
        texts = [model.decode(list(given[1].ids)) for given in answers]
        stops = [request.args[1].get("until") or [] for _, request in asked]
        return [_cut(text, until) for text, until in zip(texts, stops, strict=True)]


def _limit(settings: Mapping[str, Any]) -> int:
    if settings.get("do_sample"):
        raise ConfigError("proxykv decodes greedily; set do_sample to false")
    return int(settings.get("max_gen_toks", MAX_NEW_TOKENS))


def _cut(text: str, until: str | Sequence[str]) -> str:
    """The text up to the first of the texts that end an answer."""
    for end in [until] if isinstance(until, str) else until:
        text = text.split(end, maxsplit=1)[0] if end else text
    return text
