"""Mistakes in a config, one line each: what, where, and how to correct it. Nothing here raises."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from proxykv.config import catalog, sources
from proxykv.config.check.data import dataset_problems, length_problems
from proxykv.config.check.efficiency import efficiency_problems
from proxykv.config.check.fitting import fitting_problems
from proxykv.config.check.methods import comparison_problems, method_problems, role_problems
from proxykv.config.check.schema import did_you_mean, form_problems, repeated, schema_problems

__all__ = ["card_problems", "config_problems", "did_you_mean", "form_problems", "schema_problems"]


def config_problems(config: Mapping[str, Any]) -> list[str]:
    """Every mistake in a run's config, and in the family files that it names."""
    problems = schema_problems(config, "config", "config")
    return problems or [
        *_family_problems(config),
        *method_problems(config),
        *(card_problems() or [*role_problems(config), *fitting_problems(config)]),
        *comparison_problems(config),
        *dataset_problems(config),
        *length_problems(config),
        *efficiency_problems(config),
        *sources.source_problems(config),
        *_retention_problems(config),
    ]


def card_problems() -> list[str]:
    """Every mistake in the cards of the catalogue's methods."""
    return [
        problem
        for name, (file, card) in catalog.cards().items()
        # As JSON, in which a tuple is a list.
        for problem in schema_problems(
            json.loads(json.dumps(card)), "card", f"{file}: CARDS.{name}"
        )
    ]


def _family_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name in config["families"]:
        if name not in catalog.families():
            hint = did_you_mean(name, catalog.families())
            yield f"config.families: no file config/families/{name}.yaml; {hint}"
            continue
        family = catalog.families()[name]
        where = f"config/families/{name}.yaml"
        yield from schema_problems(family, "family", where) or _device_problems(family, where)
        if isinstance(family, Mapping) and family.get("family") != name:
            yield f"{where}.family: {family.get('family')!r} is not the file's name {name!r}"
    yield from repeated(config["families"], "config.families")


def _device_problems(family: Mapping[str, Any], where: str) -> Iterator[str]:
    """Fewer GPUs asked for than a target needs that is on several of them."""
    several, asked = family["target"]["device"].split(","), family["resources"]["gpu"]
    named = sorted({*several, family["proxy"]["device"]})
    if len(several) > 1 and asked < len(named):
        yield (
            f"{where}.resources.gpu: {asked}, but the models are on {', '.join(named)}; "
            f"ask for {len(named)}"
        )


def _retention_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Retentions that tables show as the same number, or no full cache."""
    yield from repeated((float(f"{part:g}") for part in config["retentions"]), "config.retentions")
    if 1 not in config["retentions"]:
        yield "config.retentions: 1.0 (the full cache) is missing; the others are compared with it"
