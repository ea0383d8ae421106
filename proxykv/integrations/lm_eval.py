"""lm-eval's model `proxykv`: any of its generative tasks, answered from a pruned context."""

# lm-eval's own annotations are narrower than what it passes.
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from proxykv.config.catalog import methods_of, variants
from proxykv.config.check import did_you_mean
from proxykv.config.cost.placement import devices_of, local_layer_devices
from proxykv.config.keys.model_files import ModelFiles
from proxykv.integrations.prompts import (
    PromptIds,
    answer_ends,
    answer_limit,
    context_seam,
    cut_at,
    prompt_ids,
    unmarked,
)
from proxykv.model.decode import TokenizedQuestion
from proxykv.model.loading import load_model
from proxykv.model.model import Model
from proxykv.model.prompt.vocabulary import require_shared_vocabulary
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.contract import MethodContext
from proxykv.scoring.engine import Engine
from proxykv.scoring.ledger import Ledger
from proxykv.scoring.proxy import Proxy

log = logging.getLogger(__name__)

_OPENING = "<<the user's text>>"


@register_model("proxykv")
class PrunedLM(LM):
    """A target that reads a context once, prunes it, and answers all questions about it.

    The model reads lm-eval's own prompt, encoded whole.
    """

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
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        """Load the models; the arguments are those of `--model_args`.

        Args:
            target: transformers folder of the model that answers.
            proxy: the same for the small model, if the method needs one.
            mapper: folder of a fitted method (a mapper's for ProxyKV).
            method: id of a method, such as proxykv, kvzip or snapkv.
            retention: share of the context's KV pairs to keep, in (0, 1].
            marker: text that ends the context in every prompt, and is not shown to the model;
                without it, the context ends where the document's field `context` last occurs.
            chat_options: variables for the chat template, with `--apply_chat_template`.
            dtype: of both models.
            device: of both models; `auto` is the machine's accelerator if it has one. Several
                (`--device cuda:0,cuda:1`) share the target's layers; the proxy is on the last one.
            seed: of what methods draw at random.
            batch_size: not used; lm-eval always passes it.
            max_batch_size: the same.

        Raises:
            ConfigError: if something that the method needs is missing or does not fit.
        """
        super().__init__()
        if not (known := methods_of([str(method)])):
            hint = did_you_mean(str(method), variants())
            raise ConfigError(f"model_args: unknown method {method!r}; {hint}")
        (self.method,) = known.values()
        self.marker = None if marker is None else str(marker)  # lm-eval reads 5 as a number
        # The full cache is not pruned, so its retention is 1.
        self.retention = 1.0 if self.method.scope == "none" else _share(retention)
        if not isinstance(chat_options or {}, Mapping):
            raise ConfigError(f"model_args: chat_options is {chat_options!r}, no names with values")
        if not isinstance(seed, int):
            raise ConfigError(f"model_args: seed is {seed!r}, no whole number")
        self.chat_options = dict(chat_options or {})
        if self.method.uses:
            raise ConfigError(f"method {method!r} combines others: run it in a workflow")
        if self.method.fitted_id and not (mapper and proxy):
            raise ConfigError(f"method {method!r} is fitted: model_args need proxy= and mapper=")
        home, *others = devices_of({"device": device})
        small_home = [home, *others][-1]
        folders = {"target": Path(target), **({"proxy": Path(proxy)} if proxy else {})}
        places = {"target": device, "proxy": small_home}
        models = {role: {"dtype": dtype, "device": places[role]} for role in folders}
        layers = local_layer_devices(folders, models)
        self.model = load_model(folders["target"], dtype=dtype, device=home, layers=layers)
        self.openings: set[str] = set()
        self.engine = self._engine(target, proxy, mapper, dtype, small_home, seed)

    def _engine(
        self, target: str, proxy: str | None, mapper: str | None, dtype: str, device: str, seed: int
    ) -> Engine:
        def load_proxy() -> Model:
            model = load_model(Path(str(proxy)), dtype=dtype, device=device)
            require_shared_vocabulary(self.model.tokenizer, model.tokenizer)
            return model

        pair = {}
        for role, path in (("target", target), ("proxy", proxy)):
            pair |= ModelFiles(Path(path), {}).pair_entries(role) if path else {}
        ledger = Ledger()
        small = Proxy(load_proxy, ledger)
        context = MethodContext(
            fitted={str(self.method.fitted_id): Path(str(mapper))},
            proxy=small,
            methods={self.method.id: self.method},
            pair=pair,
            seed=seed,
            ledger=ledger,
        )
        return Engine(context, small, "sequential")

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> PrunedLM:
        """Create the model from `--model_args`, as lm-eval's command line does.

        Args:
            arg_string: `name=value` pairs, separated by commas.
            additional_config: lm-eval's own settings.

        Raises:
            ConfigError: if an argument is unknown or missing.
        """
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> PrunedLM:
        """Create the model from a mapping.

        Args:
            arg_dict: arguments of the constructor, which precede lm-eval's own settings.
            additional_config: lm-eval's own settings.

        Raises:
            ConfigError: if an argument is unknown or missing.
        """
        known = list(inspect.signature(cls.__init__).parameters)[1:]
        for name in arg_dict:
            if name not in known:
                raise ConfigError(f"model_args: unknown {name!r}; {did_you_mean(name, known)}")
        if "target" not in arg_dict:
            raise ConfigError("model_args: `target` is missing; give target=<model folder>")
        added = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**added, **arg_dict})

    def get_model_info(self) -> dict[str, Any]:
        """Return the pruning settings, which lm-eval writes into its results file."""
        return {
            "pruning_method": self.method.id,
            "pruning_scope": self.method.scope,
            "pruning_retention": self.retention,
            "target_hash": self.model.digest,
        }

    @property
    def tokenizer_name(self) -> str:
        """Name by which lm-eval keeps its caches of requests apart."""
        return self.model.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the tokenizer's template if lm-eval uses one."""
        return self.model.tokenizer.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a prompt in the tokenizer's chat template.

        Args:
            chat_history: messages with `role` and `content`.
            add_generation_prompt: whether the model answers next; otherwise it continues the last
                message.
        """

        def rendered(history: list[dict[str, str]]) -> str:
            return self.model.tokenizer.apply_chat_template(
                history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self.chat_options,
            )

        first = next(i for i, message in enumerate(chat_history) if message["role"] == "user")
        stand_in = {**chat_history[first], "content": _OPENING}
        # What stands before the user's text is the prefix, which is never pruned.
        opened = rendered([*chat_history[:first], stand_in, *chat_history[first + 1 :]])
        self.openings.add(opened.partition(_OPENING)[0])
        return rendered(chat_history)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answer greedily; consecutive requests about one context share its prefill and pruning.

        Args:
            requests: prompts with the options of the generation.
            disable_tqdm: not used.

        Raises:
            ConfigError: if a prompt cannot be split or is too long, or if a task samples.
        """
        prompts = [(self.split(request), request) for request in requests]
        cut = [f"{one.task_name} {one.doc_id}" for ids, one in prompts if not ids.clean_seam]
        if cut:
            log.info(
                "%d of %d contexts end inside a token and are encoded separately: %s",
                *(len(cut), len(prompts), ", ".join(cut)),
            )
        texts: list[str] = []
        for _, group in groupby(prompts, key=lambda pair: (pair[0].prefix, pair[0].context)):
            context_requests = list(group)
            for text, (_, request) in zip(
                self._answers(context_requests), context_requests, strict=True
            ):
                self.cache_hook.add_partial("generate_until", request.args, text)
                texts.append(text)
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: this model only generates.

        Args:
            requests: not used.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("proxykv answers generative tasks only (generate_until)")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refuse: this model only generates.

        Args:
            requests: not used.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("proxykv answers generative tasks only (generate_until)")

    def split(self, request: Instance) -> PromptIds:
        """Encode a request's prompt and cut it after the context.

        Raises:
            ConfigError: if it cannot be cut, or exceeds what the model can read.
        """
        prompt, task = request.args[0], request.task_name
        if self.marker:
            prompt, seam = unmarked(prompt, self.marker, task)
        else:
            seam = context_seam(prompt, request.doc.get("context"), task)
        openings = [len(text) for text in self.openings if prompt.startswith(text)]
        ids = prompt_ids(self.model.tokenizer, prompt, max(openings, default=0), seam)
        if not ids.question:
            raise ConfigError(f"task {task}: nothing follows the context; there is no question")
        window = self.model.net.config.max_position_embeddings
        answer_ends(request.args[1])  # before any model work
        tokens = len(ids.prefix) + len(ids.context) + len(ids.question)
        if tokens + answer_limit(request.args[1]) > window:
            raise ConfigError(
                f"task {task}: a prompt of {tokens} tokens and its answer exceed the model's "
                f"{window}; choose shorter samples or a model with a longer window"
            )
        return ids

    def _answers(self, context_requests: Sequence[tuple[PromptIds, Instance]]) -> list[str]:
        first = context_requests[0][0]
        model = replace(self.model, prefix=first.prefix)
        ids = torch.tensor([*first.prefix, *first.context], device=model.device)
        work = self.engine.read(model, ids, [self.method.id])
        (pruning,) = work.prunings([(self.method, self.retention)])
        questions = [
            TokenizedQuestion(prompt.question, (), answer_limit(request.args[1]))
            for prompt, request in context_requests
        ]
        answers = work.answers([pruning.keep], questions)
        texts = [model.decode(list(given[1].ids)) for given in answers]
        stops = [answer_ends(request.args[1]) for _, request in context_requests]
        return [cut_at(text, ends) for text, ends in zip(texts, stops, strict=True)]


def _share(retention: Any) -> float:
    """A retention; ConfigError if it is none."""
    if not isinstance(retention, int | float) or not 0 < retention <= 1:
        raise ConfigError(f"model_args: retention is {retention!r}; give a number in (0, 1]")
    return float(retention)
