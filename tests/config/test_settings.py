"""Settings of training and mapper: each has a meaning, a unit and bounds, and is stated once."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict, fields
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from valid_config import valid

from proxykv.config import catalog
from proxykv.config.check import config_problems
from proxykv.config.settings.signals import Signal
from proxykv.config.settings.training import COUNTLESS, MapperSettings, TrainingSettings, schema_of

SETTINGS = [(cls, field) for cls in (TrainingSettings, MapperSettings) for field in fields(cls)]
CODE = """
import sys
sys.modules["torch"] = None
from proxykv.config.settings.training import TrainingSettings
print(sorted(TrainingSettings().weights))
"""


@pytest.mark.parametrize(("cls", "field"), SETTINGS, ids=[field.name for _, field in SETTINGS])
def test_every_setting_states_its_meaning_and_unit(cls: type, field: Any) -> None:
    assert field.metadata["meaning"] and field.metadata["unit"]
    schema = schema_of(cls)["properties"][field.name]
    assert field.metadata["meaning"] in schema["description"]
    unit = field.metadata["unit"]
    assert unit in COUNTLESS or schema["description"].endswith(f"({unit})")
    assert {"type", "enum"} & schema.keys()


def test_the_configs_schema_is_that_of_the_settings() -> None:
    training = catalog.schema("config")["properties"]["training"]
    assert training["properties"] == schema_of(TrainingSettings)["properties"]
    assert training["properties"]["mapper"]["properties"].keys() == {
        field.name for field in fields(MapperSettings)
    }
    assert training["additionalProperties"] is False


@pytest.mark.parametrize("cls", [TrainingSettings, MapperSettings])
def test_defaults_keep_to_their_bounds(cls: type) -> None:
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(cls()).items()
    }
    Draft202012Validator(schema_of(cls)).validate(values)


def test_the_reference_states_every_default() -> None:
    page = (catalog.ROOT / "docs" / "reference" / "config.md").read_text("utf-8")
    for cls, field in SETTINGS:
        section = "training" if cls is TrainingSettings else "training.mapper"
        (line,) = re.findall(rf"^\| `{section}\.{field.name}` \|.*$", page, re.MULTILINE)
        default = schema_of(cls)["properties"][field.name]["default"]
        stated = re.split(r"(?<!\\) \| ", line)[2]
        assert yaml.safe_load(stated.strip("`")) == default


def test_a_signal_is_named_after_what_differs_from_the_defaults() -> None:
    assert Signal().name == "kvzip" and Signal("local").name == "local"
    assert Signal("windowed", 128, 16, 0.5).name == "windowed_chunk128_overlap16_layers0.5"


def test_training_reads_kvzip_scores_of_all_layers_by_default() -> None:
    assert Signal.of(asdict(TrainingSettings())) == Signal() == Signal("kvzip", 2000, 0, 1.0)


def test_signals_share_the_prefill_of_the_layers_that_they_read() -> None:
    assert Signal().prefilled == Signal("local", 128).prefilled == Signal("prefill").prefilled
    assert Signal(layers=0.5).prefilled == Signal("prefill", layers=0.5).prefilled
    assert None is not Signal().prefilled != Signal(layers=0.5).prefilled
    assert Signal("windowed").prefilled is None


def test_they_are_read_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, cwd=catalog.ROOT, check=True
    )
    assert done.stdout.strip() == "['bin', 'cos', 'fine', 'mse']"


OUT_OF_BOUNDS: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, "steps: 0 is less than the minimum of 1"),
    ({"steps": 2.5}, "steps: 2.5 is not of type 'integer'"),
    ({"lr": 0}, "lr: 0 is less than or equal to the minimum of 0"),
    ({"weight_decay": -0.1}, "weight_decay: -0.1 is less than the minimum of 0"),
    (
        {"signal": "prefil"},
        "signal: 'prefil' is not one of ['kvzip', 'local', 'windowed', 'prefill']",
    ),
    ({"proxy_layers": 1.5}, "proxy_layers: 1.5 is greater than the maximum of 1"),
    ({"proxy_layers": 0}, "proxy_layers: 0 is less than or equal to the minimum of 0"),
    ({"signal_chunk": 0}, "signal_chunk: 0 is less than the minimum of 1"),
    ({"weights": {"bin": -1}}, "weights.bin: -1 is less than the minimum of 0"),
    ({"mapper": {"dropout": 1}}, "mapper.dropout: 1 is greater than or equal to the maximum of 1"),
    ({"mapper": {"time_dilations": [0]}},
     "mapper.time_dilations[0]: 0 is less than the minimum of 1"),
    ({"mapper": {"kernel": 6}}, "mapper.kernel: 6 is even; choose an odd number"),
]  # fmt: skip


@pytest.mark.parametrize(("training", "line"), OUT_OF_BOUNDS)
def test_a_value_out_of_bounds_is_one_line(training: dict[str, Any], line: str) -> None:
    assert config_problems(valid() | {"training": training}) == [f"config.training.{line}"]
    method = {"id": "mine", "base": "proxykv", "params": training}
    config = valid() | {"methods": ["full", method]}
    assert config_problems(config) == [f"config.methods[1].params.{line}"]
