"""Digests of a model's files, in parts: every kind of result depends on some of them.

Large files are read once: a memo in the cache holds the digest of weights whose files have kept
their sizes and times.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from proxykv.config import catalog
from proxykv.config.models import model_folder, source_of, stored_tensors
from proxykv.runtime import files
from proxykv.runtime.digest import digest
from proxykv.runtime.errors import ConfigError

MEASURING = ("tokenizer",)
"""Parts that data depend on: the tokenizer measures contexts."""
PAIR = ("config", "tokenizer")
"""Parts of both models that a fitted method is made for, besides the weights."""
PROXY = ("weights", *PAIR, "dtype")
"""Parts of a proxy that its scores depend on. It reads the target's ids; its own tokenizer must
have the same vocabulary."""
SCORING = (*PROXY, "template")
"""Parts of a target that its scores depend on."""
READING = (*MEASURING, "template")
"""Parts of a target that decide what a proxy reads: ids of contexts and of replay requests."""
ANSWERING = (*SCORING, "generation")
"""Parts of a target that its answers depend on."""

SETTINGS: Mapping[str, tuple[str, ...]] = {
    "config": ("rope_scaling",),
    "dtype": ("dtype",),
    "template": ("chat", "chat_options"),
}
"""Keys of a family file's model that belong to a part."""

PROVENANCE = "provenance.json"
"""File of a converted folder: its source, and the digests of what was written."""
UNUSED = ("_name_or_path", "transformers_version")
"""Entries of a config.json that change no number."""
ADAPTER = "adapter_config.json"
NUMBERS = ("F64", "F32", "F16", "BF16")
"""Types of weights that say their values by themselves, in safetensors' names."""
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken"),
)
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")


@dataclass(frozen=True)
class ModelDigests:
    """Digests of the parts of a model's folder.

    Attributes:
        weights: of the safetensors files.
        config: of config.json.
        tokenizer: of the tokenizer's files, without the chat template.
        template: of the chat template.
        generation: of the ids that end an answer, in generation_config.json.
    """

    weights: str
    config: str
    tokenizer: str
    template: str
    generation: str


@dataclass(frozen=True)
class ModelFiles:
    """The folder of a model, and the settings that it is used with.

    Attributes:
        folder: in transformers' format.
        settings: the model's entry in a family file.
        memo: folder for digests of weights; None to read the weights each time.
    """

    folder: Path
    settings: Mapping[str, Any]
    memo: Path | None = None

    def key(self, parts: Iterable[str], planned: bool = False) -> str:
        """Digest of parts of the model, with the settings that belong to them.

        Args:
            parts: such as `SCORING`.
            planned: a model that is converted counts by its source, so that the key is known
                before the conversion and does not change with it.

        Raises:
            ConfigError: if a file is missing or cannot be read, or if a converted folder was
                edited.
        """
        found = self._planned if planned else self.digests
        values = {
            part: [getattr(found, part, None), *map(self.settings.get, SETTINGS.get(part, ()))]
            for part in parts
            if part != "template" or self.settings.get("chat")
        }
        return digest(values)

    def pair_entries(self, role: str) -> dict[str, str]:
        """Entries for the card of a fitted method, which fits no model with other ones."""
        parts = {part: self.key([part]) for part in PAIR} | {"hash": self.digests.weights}
        return {f"{role}_{part}": value for part, value in parts.items()}

    @cached_property
    def digests(self) -> ModelDigests:
        """Digests of what the folder holds.

        Raises:
            ConfigError: if a file is missing or damaged.
        """
        weights = weights_digest(self.folder, self.memo)
        config = _json(self.folder / "config.json")
        if config is None:
            raise ConfigError(f"{self.folder}: no config.json; expected a model's folder")
        generation = _json(self.folder / "generation_config.json") or {}
        tokenizer = {path.name: _content(path) for path in _found(self.folder, TOKENIZER_FILES)}
        template = {path.name: _content(path) for path in _found(self.folder, TEMPLATE_FILES)}
        in_config = (_json(self.folder / "tokenizer_config.json") or {}).get("chat_template")
        return ModelDigests(
            weights=weights,
            config=digest({key: value for key, value in config.items() if key not in UNUSED}),
            tokenizer=digest(tokenizer),
            template=digest([in_config, template]),
            generation=digest(generation.get("eos_token_id")),
        )

    @cached_property
    def _planned(self) -> ModelDigests:
        if not (source := source_of(self.settings)):
            return self.digests
        self._refuse_edited()
        return ModelDigests(**{part.name: digest(source) for part in fields(ModelDigests)})

    def _refuse_edited(self) -> None:
        provenance = _json(self.folder / PROVENANCE)
        if provenance is None:  # not converted yet
            return
        written, found = provenance.get("digests", {}), asdict(self.digests)
        changed = [part for part, value in found.items() if written.get(part) != value]
        if changed:
            raise ConfigError(
                f"{self.folder}: {', '.join(changed)} not as converted; delete the folder, and the "
                "next run makes it again (to use changed files, copy it and name the copy as "
                "`path` in the family file)"
            )


def model_files(family: Mapping[str, Any], role: str, cache: Path) -> ModelFiles:
    """The model of a family.

    Args:
        family: contents of the family's file.
        role: `target` or `proxy`.
        cache: the folder that runs share.
    """
    folder = model_folder(family, role, cache)
    if "path" in family[role] and not folder.exists():
        folder = catalog.ROOT / folder  # below the checkout, wherever the command is called
    return ModelFiles(folder, family[role], cache / "digests")


def refuse_weights(folder: Path) -> None:
    """Refuse weights that are never loaded, or whose files do not say their values.

    Args:
        folder: of a model, with or without weights.

    Raises:
        ConfigError: if there are pickled weights (which may hold code) and no safetensors files, if
            the folder is that of an adapter, if a tensor holds other than floating-point numbers
            and config.json does not say how it is quantised, or if a scale of eight-bit weights is
            missing, without which some versions of transformers take them for numbers.
    """
    pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
    if pickled and not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{folder}: weights in {pickled[0]} only, which is never loaded; convert them to "
            "safetensors (load with transformers, then save_pretrained)"
        )
    if (folder / ADAPTER).exists():
        raise ConfigError(
            f"{folder}: {ADAPTER} makes transformers load another model's weights and an adapter; "
            "merge both into one model (peft: merge_and_unload, then save_pretrained)"
        )
    quantised = (_json(folder / "config.json") or {}).get("quantization_config")
    stored = {path: stored_tensors(path) for path in sorted(folder.glob("*.safetensors"))}
    scaled = {name.rpartition("_scale")[0] for tensors in stored.values() for name in tensors}
    for path, tensors in stored.items():
        for name, (kind, _) in tensors.items():
            if quantised:  # transformers unpacks the others, or refuses them
                if kind.startswith("F8") and name.endswith(".weight") and name not in scaled:
                    raise ConfigError(
                        f"{path}: {name} holds {kind}, and no file holds its scale; fetch the "
                        "weights again"
                    )
            elif kind not in NUMBERS:
                raise ConfigError(
                    f"{path}: {name} holds {kind}, and config.json has no quantization_config that "
                    f"says what these numbers mean; store weights as {', '.join(NUMBERS)}, or "
                    "restore the model's quantization_config"
                )


def weights_digest(folder: Path, memo: Path | None = None) -> str:
    """SHA-256 over all safetensors files of a folder, and over the index of their tensors.

    Args:
        folder: of a model.
        memo: folder for digests that are known already.

    Raises:
        ConfigError: if there are no weights.
    """
    weights = [*require_weights(folder), *sorted(folder.glob("*.safetensors.index.json"))]
    stats = [(path.name, path.stat()) for path in weights]
    stamps = [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats]
    note = memo / f"{digest(str(folder.resolve()))}.json" if memo else None
    known = _noted(note) if note else {}
    if known.get("files") == stamps:
        return known["weights"]
    total = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    if note:
        with suppress(OSError):  # another user's cache: the weights are read again next time
            files.write_json(note, {"files": stamps, "weights": total.hexdigest()})
    return total.hexdigest()


def require_weights(folder: Path) -> list[Path]:
    """List the safetensors files of a folder, by name.

    Args:
        folder: of a model.

    Raises:
        ConfigError: if there are none, or none that can be used (see `refuse_weights`).
    """
    refuse_weights(folder)
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ConfigError(f"{folder}: no safetensors weights; expected a folder that has some")
    return found


def _noted(note: Path) -> dict[str, Any]:
    try:
        return json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _found(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def _content(path: Path) -> Any:
    """What a file says: of tokenizer_config.json all but the chat template."""
    if path.name != "tokenizer_config.json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return {key: value for key, value in (_json(path) or {}).items() if key != "chat_template"}


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file."""
    try:
        return files.read_object(path)
    except FileNotFoundError:
        return None
