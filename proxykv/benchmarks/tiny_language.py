"""The tiny language: 512 words, one token each, and its tokenizer."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from proxykv.runtime import files

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
QUESTION = "Question :"
KINDS = ("code", "phone", "price")
NUMBERS = tuple(f"{i:02d}" for i in range(100))
KEYS = tuple(
    head + tail
    for head in ("Ba", "De", "Fi", "Go", "Ku", "La", "Me", "Ni", "Po", "Ru")
    for tail in ("do", "ki", "lu", "ma", "ne", "pa", "ri", "so", "ta", "vu")
)
VARIABLES = tuple(f"v{i:02d}" for i in range(48))
# The words of KVzip's two replay requests, so that they are part of the language.
REQUEST = ("Repeat", "the", "part", "of", "previous", "context", "exactly", "starting", "with")
_FILLER_TEXT = """
    able acid after again air alarm amber angle apple april arch arrow ash autumn away axis
    baker bamboo band bank basin beach bean bear bell below bench berry birch bird blanket blue
    boat bold bone book border bottle bowl branch brave bread breeze brick bridge bright brook
    brown brush bucket butter button cabin cable calm camel candle canvas carpet castle cedar
    chain chalk cherry circle clay clean cliff clock cloud coast cold copper coral corner cotton
    cradle crane cricket crisp cross crown crystal curtain daisy dance dawn deep deer delta
    desert distant door dove draw dream drift drum dry dusk eagle early earth east echo edge
    empty engine evening fabric falcon family farm feather fence fern field finger fire fish
    flag flame flat float floor flour flower flute fog forest fork fountain fox fresh frost
    fruit garden gate gentle giant ginger glass glove gold grain grape grass gravel green grey
    guitar hammer harbor harvest hat hawk hazel heavy hill hollow honey horse hotel hour house
    ice island ivory jacket jar jungle kettle kitchen kite ladder lake lamp lantern lark late
    leaf lemon letter light lily linen lion little long lunar maple marble market meadow melon
    metal middle milk mill mirror mist moon morning moss motor mountain narrow needle nest night
    north oak ocean olive onion orange orchard otter oven owl paint palace paper parrot peach
    pebble pepper piano pine planet plum pocket pond poppy potter quiet rabbit rain raven ribbon
    river robin rocket
"""
FILLER = tuple(_FILLER_TEXT.split())
VOCABULARY = (
    PAD, EOS, UNK, ".", ",", ":", "Question", "codes", "set", *KINDS, *REQUEST, *NUMBERS, *KEYS,
    *VARIABLES, *FILLER,
)  # fmt: skip


def make_tokenizer() -> Tokenizer:
    """The language's word-level tokenizer: nothing added on encode, line breaks encode to nothing.

    Decoding joins words with spaces.
    """
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token=UNK))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word in (PAD, EOS, UNK)]
    )
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Write the files from which transformers loads the tokenizer: no chat template, no BOS."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    files.write_json(folder / "tokenizer_config.json", settings)
