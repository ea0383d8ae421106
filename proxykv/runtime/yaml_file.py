"""YAML files that people write, read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from proxykv.runtime.errors import ConfigError

MERGE, TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    """Refuses keys that are no text or listed twice, where YAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == MERGE:
                continue
            if key.tag != TEXT:
                name = key.value if isinstance(key, yaml.ScalarNode) else "this"
                raise yaml.MarkedYAMLError(
                    problem=f"the key {name!r} is no text; quote it", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is listed twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds: only what JSON can hold, too, with each key once.

    Args:
        path: the file.

    Raises:
        ConfigError: if it cannot be read, is no YAML, or holds anything else.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)
        json.dumps(content)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply, or a part holds itself") from None
    except TypeError as error:  # a date, a set or bytes
        raise ConfigError(f"{path}: {error}; put it in quotes") from None
    except ValueError as error:  # an integer that is too long, or a part that holds itself
        raise ConfigError(f"{path}: {error}") from None
    return content
