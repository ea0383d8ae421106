"""Mistakes in how methods are fitted, one line each. Nothing here raises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from proxykv.config.settings import MapperSettings, TrainingSettings
from proxykv.runtime.errors import ConfigError

NAMES = {field.name for field in fields(TrainingSettings)}


def training_problems(values: Mapping[str, Any], where: str) -> Iterator[str]:
    """Settings of training that the schema admits and that do not fit together.

    Args:
        values: the section `training`, or the parameters of a method that is trained.
        where: where they stand in the config.
    """
    training = {name: value for name, value in values.items() if name in NAMES}
    for settings, stated in (
        (TrainingSettings, training),
        (MapperSettings, values.get("mapper", {})),
    ):
        try:
            settings(**stated)
        except ConfigError as error:
            yield f"{where}.{error}"
