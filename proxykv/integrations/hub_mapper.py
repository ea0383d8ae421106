"""A fitted mapper on the model hub: pushed with a model card, pulled at a commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from proxykv.config import catalog
from proxykv.config.run import ROLES
from proxykv.mapper.fitted import CARD_FILE, WEIGHTS_FILE
from proxykv.mapper.hybrid import load_mapper
from proxykv.runtime import files, hub, wheels
from proxykv.runtime.errors import ConfigError

README = "README.md"
PAPER = "https://arxiv.org/abs/2605.16360"

TEXT = """---
{metadata}
---
# A ProxyKV mapper for {target}

It maps the KVzip scores of {proxy} to the KV heads of {target}. The small model then decides which
KV pairs of the large one are kept ([ProxyKV]({paper})).

| | model | dtype | SHA-256 of the weights |
|---|---|---|---|
{pair}

Models with other weights, another config or another tokenizer are refused.

## Use

```bash
proxykv pull {repository} --revision {commit} mappers/{name}
```

```python
import proxykv

pair = proxykv.load_pair("path/to/target", "path/to/proxy", "mappers/{name}")
context = pair.prune("A long text.", retention=0.3)
print(context.ask("A question?"))
```

In the config of a run:

```yaml
methods:
  - {{id: proxykv_pulled, base: proxykv, fitted: mappers/{name}}}
```

## Fidelity

Means over {val_contexts} held-out contexts, after {train_contexts} training contexts. Each column
is a retention.

{metrics}

`card.json` has the settings of the training and the names of all contexts.
"""


def push(
    folder: Path, repository: str, license_id: str | None = None, private: bool = False
) -> str:
    """Upload a fitted mapper, then a page about it that names the mapper's commit.

    Args:
        folder: of the fitted mapper.
        repository: organisation/name on the hub; it is created if there is none.
        license_id: the mapper's licence; that of the pair's family by default.
        private: whether a repository that is created is private.

    Returns:
        The commit of the mapper.

    Raises:
        ConfigError: if the folder holds no mapper or a damaged one, the licence is not known, or
            the hub refuses.
    """
    _, card = load_mapper(folder)
    known = catalog.families().get(card["family"], {})
    license_id = license_id or known.get("license")
    if not license_id:
        raise ConfigError(f"{folder}: no family {card['family']!r} here; give --license")
    parts: dict[str, Path | bytes] = {name: folder / name for name in (WEIGHTS_FILE, CARD_FILE)}
    commit = hub.upload(repository, parts, f"Mapper of {card['family']}", private)
    page = model_card(card, repository, commit, license_id)
    hub.upload(repository, {README: page.encode()}, f"About {commit}", private)
    return commit


def pull(repository: str, revision: str, folder: Path) -> Path:
    """Download a mapper that `push` uploaded.

    Args:
        repository: organisation/name on the hub.
        revision: a commit.
        folder: to make. A transfer that breaks off leaves `<folder>.partial`, where the next call
            continues.

    Returns:
        The folder of the mapper.

    Raises:
        ConfigError: if the folder exists, the hub refuses, or what is there is no mapper.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists; delete it, or name another folder")
    partial = folder.with_name(f"{folder.name}.partial")
    names = (WEIGHTS_FILE, CARD_FILE, README)
    hub.download(repository, revision, names, kind="model", folder=partial)
    if missing := [name for name in names[:2] if not (partial / name).is_file()]:
        raise ConfigError(f"{repository} at {revision}: no mapper (no {' and no '.join(missing)})")
    load_mapper(partial)
    wheels.remove(partial / hub.NOTES)
    files.obey_umask(partial)
    return partial.rename(folder)


def model_card(card: Mapping[str, Any], repository: str, commit: str, license_id: str) -> str:
    """Write the page that the hub shows of a mapper.

    Args:
        card: of the mapper.
        repository: organisation/name on the hub.
        commit: of the mapper.
        license_id: the mapper's licence.

    Returns:
        Markdown with a YAML header.
    """
    models = {role: card["models"][role] for role in ROLES}
    named = license_id.partition("LicenseRef-")[2]  # no licence of SPDX's list
    metadata = ModelCardData(
        license="other" if named else license_id.lower(),
        license_name=named or None,
        library_name="proxykv",
        base_model=[model["hub"] for model in models.values() if "hub" in model] or None,
        tags=["kv-cache", "proxykv"],
    )
    pair = [
        f"| {role} | {_name(model, full=True)} | {model['dtype']} | `{card[f'{role}_hash']}` |"
        for role, model in models.items()
    ]
    return TEXT.format(
        metadata=metadata.to_yaml(),
        target=_name(models["target"]),
        proxy=_name(models["proxy"]),
        paper=PAPER,
        pair="\n".join(pair),
        repository=repository,
        name=repository.rpartition("/")[2],
        commit=commit,
        metrics="\n".join(_metrics(card["metrics"])),
        val_contexts=len(card["val_contexts"]),
        train_contexts=len(card["train_contexts"]),
    )


def _name(model: Mapping[str, Any], full: bool = False) -> str:
    """Where a model is from: its repository, its local folder or the file in its wheels."""
    if "hub" in model:
        return f"{model['hub']} at {model['revision']}" if full else model["hub"]
    return model.get("path") or model["wheels"]["file"]


def _metrics(metrics: Mapping[str, float]) -> Iterable[str]:
    """A table with a row for each metric and a column for each retention."""
    pairs = {tuple(name.split("@")): value for name, value in metrics.items() if "@" in name}
    names = dict.fromkeys(name for name, _ in pairs)
    columns = dict.fromkeys(retention for _, retention in pairs)
    yield "| | " + " | ".join(columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for name in names:
        values = (pairs.get((name, column)) for column in columns)
        shown = ("" if value is None else f"{value:.3f}" for value in values)
        yield f"| {name} | " + " | ".join(shown) + " |"
