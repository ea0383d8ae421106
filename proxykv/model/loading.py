"""Load a target or a proxy, and split its prompt into prefix, context and question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from proxykv.config.run import Run
from proxykv.model.context_cache import ATTENTION
from proxykv.model.devices import device_of
from proxykv.model.linear import for_few_rows
from proxykv.model.tensors import Ids
from proxykv.runtime.errors import ConfigError
from proxykv.runtime.files import require_readable
from proxykv.runtime.scratch import local

SUPPORTED = ("llama", "qwen2", "qwen3")
"""Architectures whose logits are those of body and LM head alone, with full attention; tested."""

_WINDOWED = {"sliding_attention", "chunked_attention"}

_SENTINEL = "<<the user's text>>"
_EMPTY_LINE = "\n\n"


@dataclass(frozen=True)
class Model:
    """A causal language model with its tokenizer and the fixed parts of its prompt.

    `prefix`: ids before the user's text; `suffix`: ids between the question and the answer; both
    are empty where no chat template is used and the tokenizer has no BOS. `digest` is the SHA-256
    of the weights. `between`: ids between an answer and the next question of a conversation, an
    empty line where no chat template is used.
    """

    net: PreTrainedModel
    tokenizer: Any
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    digest: str
    between: tuple[int, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.net.device

    def with_template(self, options: Mapping[str, Any] | None = None) -> Model:
        """The same model for texts in its tokenizer's chat template, which `options` go to."""
        before, after, between = _template(self.tokenizer, dict(options or {}))
        parts = {"prefix": before, "suffix": after, "between": between}
        return replace(self, **{name: self.encode(text) for name, text in parts.items()})

    def without_template(self) -> Model:
        """The same model for texts that go without a chat template."""
        return replace(
            self, prefix=_bos(self.tokenizer), suffix=(), between=self.encode(_EMPTY_LINE)
        )

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: the EOS list of the generation config."""
        eos = self.net.generation_config.eos_token_id if self.net.generation_config else None
        return frozenset([eos] if isinstance(eos, int) else eos or [])

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text, without special tokens."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, special tokens dropped."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def hidden(self, input_ids: Tensor, position_ids: Tensor, cache: Any) -> Tensor:
        """Last hidden states [row, token, width] of new tokens [row, token] on top of a cache."""
        body = self.net.base_model
        return body(
            input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [..., vocabulary], float32."""
        return self.net.get_output_embeddings()(hidden).float()  # type: ignore[misc]


def load_model(
    folder: Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    chat: bool = False,
    chat_options: Mapping[str, Any] | None = None,
    rope_scaling: Mapping[str, Any] | None = None,
) -> Model:
    """Load a transformers folder (safetensors) for pruning.

    Args:
        folder: config.json, *.safetensors and tokenizer files.
        dtype: name of a torch dtype.
        device: a device string, or `auto` for the machine's accelerator if it has one.
        chat: put the prompt into the tokenizer's chat template.
        chat_options: variables for the template (for example `enable_thinking: false`).
        rope_scaling: changes the config's `rope_parameters` (for example YaRN's).

    Raises:
        ConfigError: if the folder or its architecture cannot be used.
        PermissionError: if this user may not read one of its files.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}: no config.json; expected a transformers model folder")
    for path in folder.iterdir():
        require_readable(path)
    config = AutoConfig.from_pretrained(folder)
    refuse_unsupported(config, folder)
    config.rope_parameters |= rope_scaling or {}
    net = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=getattr(torch, dtype),
        attn_implementation=ATTENTION,
        use_safetensors=True,
    )
    net = net.to(device_of(device)).eval().requires_grad_(False)  # type: ignore[arg-type]
    if net.device.type == "cpu":
        for_few_rows(net)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Model(net, tokenizer, prefix=(), suffix=(), digest=weights_digest(folder))
    return model.with_template(chat_options) if chat else model.without_template()


def load(run: Run, family: str, role: str) -> Model:
    """Load a family's target or proxy as its file says."""
    model = run.family(family)[role]
    return load_model(
        local(run.model_dir(family, role)),
        dtype=model["dtype"],
        device=model["device"],
        chat=model["chat"],
        chat_options=model.get("chat_options"),
        rope_scaling=model.get("rope_scaling"),
    )


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


def refuse_unsupported(config: Any, where: object) -> None:
    """Raise ConfigError, naming why, if a model's attention cannot be pruned here."""
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention"}
    if getattr(config, "kv_lora_rank", None):
        why = "multi-latent attention stores one latent for all heads, not keys and values per head"
    elif kinds - _WINDOWED:
        other = ", ".join(sorted(kinds - _WINDOWED))
        why = f"{other} layers keep a state instead of keys and values"
    elif kinds or getattr(config, "sliding_window", None):
        why = "sliding-window attention drops keys by itself, and no full cache exists"
    elif config.model_type not in SUPPORTED:
        why = f"its architecture is not one of {', '.join(SUPPORTED)}"
    else:
        return
    raise ConfigError(f"{where}: a {config.model_type} model cannot be pruned: {why}")


@cache
def weights_digest(folder: Path) -> str:
    """SHA-256 over all safetensors files of a folder, in order of their names.

    Raises:
        ConfigError: if there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder}: no safetensors weights; expected a folder that has some")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@runtime_checkable
class HasVocabulary(Protocol):
    """A tokenizer, of `tokenizers` or of `transformers`."""

    def get_vocab(self) -> dict[str, int]:
        """Every piece, added ones included, with its id."""
        ...


def vocabulary_hash(tokenizer: HasVocabulary) -> str:
    """SHA-256 over the sorted (piece, id) pairs: equal means that token ids can be shared."""
    pairs = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest()


def require_shared_vocabulary(target: Any, proxy: Any) -> None:
    """Raise ConfigError unless both tokenizers map the same pieces to the same ids."""
    ours, theirs = target.get_vocab(), proxy.get_vocab()
    differing = sorted(p for p in ours.keys() | theirs.keys() if ours.get(p) != theirs.get(p))
    if differing:
        raise ConfigError(
            f"target and proxy have different vocabularies ({len(differing)} pieces, such as "
            f"{differing[0]!r}); a proxy must come from the target's family"
        )


def _template(tokenizer: Any, options: dict[str, Any]) -> tuple[str, str, str]:
    """What the chat template puts before and after the user's text, and from answer to question."""

    def around(*roles: str) -> list[str]:
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": _SENTINEL} for role in roles],
            tokenize=False,
            add_generation_prompt=True,
            **options,
        )
        return text.split(_SENTINEL)

    prefix, suffix = around("user")
    return prefix, suffix, around("user", "assistant", "user")[2]


def _bos(tokenizer: Any) -> tuple[int, ...]:
    return () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)


def context_ids(model: Model, text: str) -> Ids:
    """Ids [prefix + context] of a context's text on the model's device.

    Raises:
        ValueError: if the context is empty.
    """
    ids = model.encode(text)
    if not ids:
        raise ValueError("the context is empty: there is nothing to prune")
    return torch.tensor([*model.prefix, *ids], device=model.device)
