"""One press of kvpress (github.com/NVIDIA/kvpress): made from a config, run on a context.

A press works through hooks while its model prefills. Nothing of it stays on the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, nullcontext
from hashlib import file_digest, sha256
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypedDict

import torch
from torch import nn
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from proxykv.model.devices import clock
from proxykv.model.prefill import Prefill
from proxykv.runtime.errors import ConfigError
from proxykv.scoring.ledger import Ledger


class PressFiles(TypedDict):
    """Weights that a press loads besides the model's, from a local folder.

    Attributes:
        folder: holds the press's repository under its name on the hub, as `org/name/`; may have
            environment variables.
        model: the model's name, from which the press derives the name of its repository.
        sha256: digest of the folder's files; results depend on it, so it stands in the config.
    """

    folder: str
    model: str
    sha256: str


class Press:
    """A press, and the way in which it runs."""

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        attention: Literal["sdpa", "eager"],
        press_files: PressFiles | None,
        **params: Any,
    ) -> None:
        """Make the press.

        Args:
            name: its class in kvpress.
            ledger: charges the press only for what it adds to a plain prefill.
            attention: of transformers, for the prefill under the press.
            press_files: weights that the press loads besides the model's.
            params: of the class; a press among them is written `{name: SnapKVPress, …}`.

        Raises:
            ConfigError: if there is no such press, or it does not take the parameters.
        """
        self.name, self.ledger = name, ledger
        self.attention, self.press_files = attention, press_files
        self.folder = _folder(press_files) if press_files else None
        self.package = kvpress_package()
        self.press = self._made(name, **params)

    @torch.inference_mode()
    def prefill(self, prefill: Prefill) -> tuple[DynamicCache, list[Any]]:
        """Prefill under the press.

        Args:
            prefill: the context's prefill without the press.

        Returns:
            The press's cache, and per layer what it masks instead of dropping.
        """
        start = clock(prefill.model.device)
        net, ids, cache = prefill.model.net, prefill.input_ids, DynamicCache()
        with (
            self._borrowed(prefill),
            chdir(self.folder) if self.folder else nullcontext(),
        ):
            with self.press(net):
                positions = torch.arange(len(ids), device=ids.device)
                prefill.model.hidden(ids[None], positions[None], cache)
            masked = [getattr(m, "masked_key_indices", None) for m in attention_of(prefill)]
        self.ledger.waive(min(prefill.seconds, clock(prefill.model.device) - start))
        return cache, masked

    def _made(self, name: str, **params: Any) -> Any:
        """A press from its name and parameters."""
        kind = getattr(self.package, name, None)
        if not (isinstance(kind, type) and issubclass(kind, self.package.BasePress)):
            raise ConfigError(f"kvpress has no press {name!r}")
        try:
            return kind(**{key: self._value(value) for key, value in params.items()})
        except (TypeError, AssertionError) as error:
            raise ConfigError(f"kvpress:{name}: {error}") from error

    def _value(self, given: Any) -> Any:
        """A parameter's value, with presses in place of their names and parameters."""
        if isinstance(given, Mapping) and "name" in given:
            return self._made(**given)
        return [self._value(part) for part in given] if isinstance(given, list) else given

    @contextmanager
    def _borrowed(self, prefill: Prefill) -> Iterator[None]:
        """The model on transformers' attention; changes that a press makes to it are undone."""
        net, modules = prefill.model.net, attention_of(prefill)
        implementation: Any = net.config._attn_implementation
        model_name = net.config.name_or_path
        before = [(set(vars(module)), set(module._modules)) for module in modules]
        net.set_attn_implementation(self.attention)
        if self.press_files:
            net.config.name_or_path = self.press_files["model"]
        for module in modules:
            # As kvpress' own attention does before each prefill.
            module.masked_key_indices = None  # type: ignore
        try:
            yield
        finally:
            net.config.name_or_path = model_name
            net.set_attn_implementation(implementation)
            for module, (attributes, parts) in zip(modules, before, strict=True):
                for name in [*(set(vars(module)) - attributes), *(set(module._modules) - parts)]:
                    delattr(module, name)


def attention_of(prefill: Prefill) -> list[nn.Module]:
    """The model's attention modules, by layer."""
    return [layer.self_attn for layer in prefill.model.net.base_model.layers]  # type: ignore


def _folder(press_files: PressFiles) -> Path:
    """The folder of weights, with the content that the config names."""
    missing = sorted(PressFiles.__annotations__.keys() - press_files.keys())
    if missing:
        raise ConfigError(f"press_files: {', '.join(missing)} missing")
    folder = Path(os.path.expandvars(press_files["folder"])).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"press_files: no folder {press_files['folder']!r}; correct `folder`")
    if (found := folder_digest(folder)) != press_files["sha256"]:
        raise ConfigError(
            f"press_files: {folder} has the digest {found}, not {press_files['sha256']!r}; correct "
            "`folder` or `sha256`"
        )
    return folder


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files."""
    total = sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            total.update(f"{path.relative_to(folder)}\0".encode())
            total.update(file_digest(file, "sha256").digest())
    return total.hexdigest()


def kvpress_package() -> ModuleType:
    """The package, without the effect of its import, which wraps all attention functions there are.

    The wrappers do not know caches that are not tensors, and serve only to decode with kvpress.

    Raises:
        ConfigError: if it is not installed.
    """
    functions = dict(ALL_ATTENTION_FUNCTIONS)
    try:
        return import_module("kvpress")
    except ImportError as error:
        raise ConfigError(
            f"kvpress: {error}; it needs the older packages that `make parity` installs"
        ) from error
    finally:
        for name, function in functions.items():
            ALL_ATTENTION_FUNCTIONS[name] = function
