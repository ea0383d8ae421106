"""Tokenizers of many kinds, chat templates, and a model that has both and no weights."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from proxykv.model.model import Model

CORPUS = [
    "The pass key is 4711. Remember it.\n\nQuestion: What is the pass key?\nAnswer: 4711",
    "  indented text, with  double blanks\n\n\nand empty lines; 12345678 numbers",
    "User and assistant, system: you are a helpful assistant. [INST] Größe 鍵 [/INST]",
] * 4
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
QWEN = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(QWEN, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(
        tokenizer,
        trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=SPECIAL),
    )


def sentencepiece() -> Tokenizer:
    """A blank before the first text, as Llama's tokenizers put it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return pieces(tokenizer)


def legacy() -> Tokenizer:
    """A blank before every text between special tokens."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return pieces(tokenizer)


def spaced() -> Tokenizer:
    """Byte-level, with a blank before every text between special tokens."""
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def taking_blanks() -> Tokenizer:
    """One special token takes the blanks before it, another one those after it."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("</s>", lstrip=True, normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", rstrip=True, normalized=False)])
    return tokenizer


def pieces(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", *SPECIAL, *fallback]
    made = trained(tokenizer, trainers.BpeTrainer(vocab_size=500, special_tokens=special))
    # The trainer makes the bytes special tokens, which texts would be cut at.
    content = json.loads(made.to_str())
    content["added_tokens"] = content["added_tokens"][: 1 + len(SPECIAL)]
    return Tokenizer.from_str(json.dumps(content))


def trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    return tokenizer


def adding(tokenizer: Tokenizer, *, end: bool = False) -> Tokenizer:
    """The same, which puts a BOS before a text (and an EOS behind it)."""
    ids = [(text, tokenizer.token_to_id(text)) for text in ("<s>", "</s>")]
    form = "<s> $A </s>" if end else "<s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(single=form, special_tokens=ids)
    return tokenizer


def fast(tokenizer: Tokenizer, **named: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


TOKENIZERS = {
    "byte-level": lambda: fast(byte_level()),
    "a BOS that is named, not added": lambda: fast(byte_level(), bos_token="<|im_start|>"),
    "a BOS that is added, not named": lambda: fast(adding(byte_level())),
    "a BOS and an EOS": lambda: fast(adding(byte_level(), end=True), bos_token="<s>"),
    "sentencepiece": lambda: fast(adding(sentencepiece()), bos_token="<s>"),
    "legacy": lambda: fast(adding(legacy()), bos_token="<s>"),
    "a blank before every text": lambda: fast(spaced()),
    "special tokens that take blanks": lambda: fast(taking_blanks()),
}
TEMPLATES = {
    "none": None,
    "system": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% for m in messages %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "instruction": (
        "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
    ),
    "trimming": (
        "<s>{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
    ),
}


def model_of(tokenizer: Any, template: str | None) -> Model:
    bare = Model(None, tokenizer, prefix=(), suffix=(), digest="")  # type: ignore[arg-type]
    if template is None:
        return bare.without_template()
    tokenizer.chat_template = template
    return bare.with_template()
