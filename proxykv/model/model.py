"""A causal language model with its tokenizer, and the ids of its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from proxykv.model.caches.context import ATTENTION
from proxykv.model.prompt.template import Template, Turns, chat_template
from proxykv.model.prompt.tokenizer import continuation, opening_ids, special_ids
from proxykv.model.tensors import Ids
from proxykv.runtime.errors import ConfigError

_EMPTY_LINE = "\n\n"


@dataclass(frozen=True)
class Model:
    """A causal language model with its tokenizer and the fixed parts of its prompts.

    `prefix` and `suffix` are empty where there is no chat template and the tokenizer adds no
    special tokens.

    Attributes:
        net: the model (transformers).
        tokenizer: a fast tokenizer of transformers.
        prefix: ids before the context.
        suffix: ids between the question and the answer.
        digest: SHA-256 of the weights.
        template: the chat template; None where prompts have none.
    """

    net: PreTrainedModel
    tokenizer: Any
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    digest: str
    template: Template | None = None

    @property
    def device(self) -> torch.device:
        """Where token ids, hidden states and logits are; usually the device of all layers, too."""
        return self.net.device

    @property
    def layer_devices(self) -> list[torch.device]:
        """Where each layer and its keys and values are."""
        layers: Any = self.net.base_model.layers
        return [next(layer.parameters()).device for layer in layers]

    @property
    def devices(self) -> list[torch.device]:
        """Devices that hold a part of it, `device` first."""
        return list(dict.fromkeys([self.device, *self.layer_devices]))

    def with_template(self, options: Mapping[str, Any] | None = None) -> Model:
        """The same model for prompts in its tokenizer's chat template.

        Args:
            options: variables of the template.

        Raises:
            ConfigError: if the template cannot be used (see `chat_template`).
        """
        template = chat_template(self.tokenizer, dict(options or {}))
        prefix = opening_ids(self.tokenizer, template.opening)
        suffix = self.encode(template.closing)
        return replace(self, prefix=prefix, suffix=suffix, template=template)

    def without_template(self) -> Model:
        """The same model for prompts without a chat template, with the tokenizer's own BOS."""
        prefix, suffix = special_ids(self.tokenizer)
        return replace(self, prefix=prefix, suffix=suffix, template=None)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: the EOS list of the generation config."""
        return frozenset(eos_ids(self.net))

    def context(self, text: str) -> tuple[int, ...]:
        """Ids of prefix and context.

        They are the first ids of the whole prompt's encoding, up to the seam with the question. A
        token that holds the end of the prefix and the start of the context may count as either.
        """
        if self.template:
            prompt = self.template.context(text)
            return tuple(self.tokenizer.encode(prompt, add_special_tokens=False))
        return (*self.prefix, *self.tokenizer.encode(text, add_special_tokens=False))

    def context_pieces(self, text: str) -> tuple[str, ...]:
        """The context's text, cut where its tokens begin: one piece for each of its ids.

        Args:
            text: the context.
        """
        prompt = self.template.context(text) if self.template else text
        coded = self.tokenizer.backend_tokenizer.encode(prompt, add_special_tokens=False)
        starts = [start for start, _ in coded.offsets]
        starts = starts[len(self.prefix) if self.template else 0 :]
        return tuple(prompt[a:b] for a, b in pairwise([*starts, len(prompt)]))

    def question(
        self, text: str, history: Turns = (), start: str = "", context: str = ""
    ) -> tuple[int, ...]:
        """Ids of everything between the context and the generated tokens.

        Args:
            text: the question.
            history: earlier questions and answers of the conversation.
            start: text that the answer is made to begin with.
            context: the context, whose end may decide what the tokenizer puts after it.

        Raises:
            ConfigError: if a special token begins in the context and ends in the question, or the
                question does not continue the context letter by letter.
        """
        if self.template:
            rest = self.template.after_context(text, history) + start
            return continuation(self.tokenizer, rest, context, exact=True)
        turns = "".join(_spaced(question, answer) + _EMPTY_LINE for question, answer in history)
        rest = turns + _spaced(text, start)
        return (*continuation(self.tokenizer, rest, context, exact=True), *self.suffix)

    def encode(self, text: str, before: str = "") -> tuple[int, ...]:
        """Ids of a text in the middle of a prompt, without special tokens.

        Args:
            text: the text.
            before: what precedes it.

        Raises:
            ConfigError: if a special token begins in one of them and ends in the other.
        """
        return continuation(self.tokenizer, text, before)

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, special tokens dropped."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def hidden(self, input_ids: Tensor, position_ids: Tensor, cache: Any) -> Tensor:
        """Last hidden states of new tokens, on top of a cache.

        Args:
            input_ids: ids of the new tokens [row, token].
            position_ids: their positions [row, token].
            cache: keys and values of the tokens before; it grows by the new tokens.

        Returns:
            Hidden states [row, token, width].
        """
        body = self.net.base_model
        return body(
            input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [..., vocabulary], float32."""
        return self.net.get_output_embeddings()(hidden).float()  # type: ignore[misc]


def bare_model(net: PreTrainedModel) -> Model:
    """Wrap a loaded network, without a tokenizer, for functions that work on token ids.

    Raises:
        ConfigError: if it was loaded with another attention than `ATTENTION`.
    """
    found = net.config._attn_implementation
    if found != ATTENTION:
        raise ConfigError(
            f"the model runs attention {found!r}; load it with attn_implementation={ATTENTION!r} "
            "(proxykv.model.ATTENTION)"
        )
    return Model(net, tokenizer=None, prefix=(), suffix=(), digest="")


def context_ids(model: Model, text: str) -> Ids:
    """Ids of the prefix and a context's text, on the model's device (1-D).

    Args:
        model: the model.
        text: the context.

    Raises:
        ValueError: if the context is empty.
    """
    ids = model.context(text)
    if len(ids) <= len(model.prefix):
        raise ValueError("the context is empty: there is nothing to prune")
    return torch.tensor(ids, device=model.device)


def eos_ids(net: PreTrainedModel) -> list[int]:
    """What the generation config lists as the ends of an answer."""
    eos = net.generation_config.eos_token_id if net.generation_config else None
    return [] if eos is None else eos if isinstance(eos, list) else [eos]


def _spaced(question: str, answer: str) -> str:
    """A question and its answer, with a blank between them if there is none."""
    apart = not answer or question[-1:].isspace() or answer[0].isspace()
    return question + ("" if apart else " ") + answer
