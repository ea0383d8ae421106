"""No name of a config reaches a shell, a tool's options or a folder outside the checkout."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import Checkout
from valid_config import Config, valid

from proxykv.config import catalog, check

HOSTILE = (
    "$(touch PWNED)",
    "c$(touch PWNED)",
    "`touch PWNED`",
    "a; touch PWNED",
    "a' 'b",
    "a\nb",
    "a\n",
    "../../elsewhere",
    "..",
    "a/../../b",
    "/elsewhere",
    "--index-url=https://elsewhere",
    "-m",
    "{wildcards.task}",
    "a b",
    'a"b',
    "tіny",  # with a letter of another script
    "tiny\u200b",
    "a\0b",
    "",
)


def config_with(place: str, value: str) -> Config:
    config = valid()
    match place:
        case "run" | "cache":
            config[place] = value
        case "method":
            config["methods"].append(value)
        case "id":
            config["methods"].append({"id": value, "base": "kvzip"})
        case "base":
            config["methods"].append({"id": "mine", "base": value})
        case "class":
            config["methods"].append({"id": "mine", "base": f"{value}:Mine"})
        case "family":
            config["families"].append(value)
        case "benchmark":
            config["benchmarks"][0]["benchmark"] = value
        case "task":
            config["corpus"][0]["tasks"].append(value)
        case "fitted":
            config["methods"].append({"id": "mine", "base": "proxykv", "fitted": value})
        case "group":
            config["comparisons"] = [{"group": value, "pairs": [["kvzip", "full"]]}]
        case "scan" | "measured family":
            scan = {"name": "one", "methods": ["full"], "lengths": [64], "retentions": [0.5]}
            changed = {"name": value} if place == "scan" else {"families": [value]}
            config["efficiency"] = [{**scan, "weights": "random", **changed}]
    return config


PLACES = [
    *("run", "cache", "method", "id", "base", "class", "family", "benchmark", "task"),
    *("fitted", "group", "scan", "measured family"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_names_are_refused_in_one_line(place: str, value: str) -> None:
    problems = check.config_problems(config_with(place, value))
    assert len(problems) == 1
    assert len(problems[0].splitlines()) == 1


@pytest.mark.parametrize("place", ["benchmark", "task"])
@pytest.mark.parametrize("value", HOSTILE)
def test_a_stored_config_leads_to_no_file_outside_its_run(place: str, value: str) -> None:
    """Such as that of a run which someone else has made."""
    (line,) = check.form_problems(config_with(place, value), "results/theirs/config.json")
    assert "is not allowed; expected" in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("place", ["run", "cache", "id", "family", "benchmark", "task", "fitted"])
def test_names_too_long_for_a_file_system_are_refused(place: str) -> None:
    (line,) = check.config_problems(config_with(place, "a" * 300))
    assert "is not allowed; expected" in line


@pytest.mark.parametrize("cache", ["cache", "my.cache", "shared/cache-2", ".cache", "..cache"])
def test_folders_below_the_checkout_are_accepted(cache: str) -> None:
    assert check.config_problems(valid() | {"cache": cache}) == []


@pytest.mark.parametrize(
    "cache", ["my cache", "-cache", "a//b", "a/./b", "a/", "./a", "~", "/".join("a" * 11)]
)
def test_other_folders_are_refused_with_the_rule(cache: str) -> None:
    (line,) = check.config_problems(valid() | {"cache": cache})
    assert line.startswith(
        f"config.cache: {cache!r} is not allowed; expected a folder below the checkout"
    )


@pytest.mark.parametrize("cache", ["results", "results/test", ".git", "proxykv", "config/cache"])
def test_folders_with_other_contents_are_no_cache(cache: str) -> None:
    (line,) = check.config_problems(valid() | {"cache": cache})
    assert "expected a folder below the checkout that holds nothing else" in line


def hub(model: Config, **changes: str) -> None:
    del model["path"]
    model.update({"hub": "org/name", "revision": "0" * 40, **changes})


def wheels(model: Config, **changes: str) -> None:
    del model["path"]
    package = {"name": "data", "version": "1.0"} | {
        key: changes.pop(key) for key in ("name", "version") if key in changes
    }
    source = {"packages": [package], "member": "*", "file": "a.gguf", "bytes": 1}
    model["wheels"] = {**source, "sha256": "0" * 64, **changes}


def numbered(model: Config, **changes: str) -> None:
    wheels(model)
    model["wheels"]["packages"] = {"prefix": "data-", "count": 2, "version": "1.0", **changes}


FAMILY: dict[str, Callable[[Config, str], Any]] = {
    "path": lambda model, value: model.update(path=value),
    "hub": lambda model, value: hub(model, hub=value),
    "hub's name": lambda model, value: hub(model, hub=f"org/{value}"),
    "revision": lambda model, value: hub(model, revision=value),
    "package": lambda model, value: wheels(model, name=value),
    "version": lambda model, value: wheels(model, version=value),
    "numbered packages": lambda model, value: numbered(model, prefix=value),
    "version of numbered packages": lambda model, value: numbered(model, version=value),
    "file": lambda model, value: wheels(model, file=f"{value}.gguf"),
    "checksum": lambda model, value: wheels(model, sha256=value),
    "device": lambda model, value: model.update(device=value),
}


def family_problems(change: Callable[[Config], Any]) -> list[str]:
    family = copy.deepcopy(dict(catalog.families()["tiny"]))
    change(family["target"])
    return check.schema_problems(family, "family", "tiny.yaml")


@pytest.mark.parametrize("changed", [lambda m: None, hub, wheels, numbered])
def test_the_families_of_these_tests_are_right(changed: Callable[[Config], None]) -> None:
    assert family_problems(changed) == []


@pytest.mark.parametrize("place", FAMILY)
@pytest.mark.parametrize("value", [v for v in HOSTILE if v])
def test_hostile_values_of_a_family_are_refused(place: str, value: str) -> None:
    problems = family_problems(lambda model: FAMILY[place](model, value))
    assert len(problems) == 1
    assert len(problems[0].splitlines()) == 1


@pytest.mark.parametrize("revision", ["main", "v1.0", "0" * 39, "0" * 41, "0" * 40 + "\n"])
def test_a_revision_is_a_commit(revision: str) -> None:
    (line,) = family_problems(lambda model: hub(model, revision=revision))
    assert line == (
        f"tiny.yaml.target.revision: {revision!r} is not allowed; "
        "expected a commit (40 hexadecimal digits), not a branch or a tag"
    )


def text(**source: Any) -> Config:
    """A config with a source of text."""
    entry = {"benchmark": "text", "tasks": ["prose"], "contexts": 2, "lengths": [128]}
    return valid() | {"corpus": [{**entry, "options": {"sources": [{"files": "*", **source}]}}]}


def records_of(**source: str) -> Config:
    """A config with a source of records."""
    entry = {"benchmark": "longbench", "tasks": ["qasper"], "options": {"source": source}}
    return valid() | {"benchmarks": [entry]}


COMMIT, SHA256 = "0" * 40, "0" * 64


@pytest.mark.parametrize("value", [*HOSTILE, "a--b", "a/b/c", "a" * 97])
def test_hostile_repositories_of_data_are_refused_in_one_line(value: str) -> None:
    for config in (
        records_of(hub=value, revision=COMMIT),
        text(kind="hub", name=value, revision=COMMIT, field="text"),
    ):
        (line,) = check.config_problems(config)
        assert line.endswith(f"{value!r}: no repository of the hub; give organisation/name")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (records_of(hub="a/b", revision=COMMIT), None),
        (records_of(hub="a/b", revision="main"), "revision 'main' is not a commit"),
        (records_of(hub="a/b", revision=COMMIT + "\n"), "is not a commit"),
        (records_of(hub="a/b"), "revision '' is not a commit"),
        (text(kind="hub", name="a/b", revision=COMMIT, field="text"), None),
        (text(kind="hub", name="a/b", revision="v1", field="text"), "'v1' is not a commit"),
        (text(kind="wheel", name="some-data", version="1.0", sha256=SHA256), None),
        (text(kind="wheel", name="some-data", version="1.0", sha256="0"), "'0' is no SHA-256"),
        (
            text(kind="debian", name="a", version="1", sha256=f"{SHA256}\n"),
            "is no SHA-256",
        ),
        (
            text(kind="wheel", name="--index-url=x", version="1", sha256=SHA256),
            "not the name of a package",
        ),
        (text(kind="debian", name="g++", version="4:12.2.0-3", sha256=SHA256), None),
        (
            text(kind="debian", name="a", version="-o=Dir::Etc=x", sha256=SHA256),
            "is not an exact version",
        ),
        (text(kind="package", name="a b", version="1"), "not the name of a package"),
        (text(kind="hub", name=3, revision=COMMIT, field="text"), "`name` must be a text"),
        (text(kind=["wheel"], name="a", version="1"), "source kind ['wheel']: expected one of"),
        (text(kind="stdlib", files="pydoc_data/*"), None),
        (text(kind="stdlib", files="../*"), "`files` leaves the folder"),
        (text(kind="folder", path=".", files="*/../../*"), "`files` leaves the folder"),
        (text(kind="folder", path=".", files="/etc/*"), "`files` leaves the folder"),
        (text(kind="folder", path="a\nb"), "`path` must be a text in one line"),
        (records_of(path="a\nb"), "`path` must be a text in one line"),
    ],
)
def test_sources_are_pinned_before_any_job(config: Config, message: str | None) -> None:
    problems = check.config_problems(config)
    assert len(problems) == (message is not None)
    if message:
        assert message in problems[0]
        assert len(problems[0].splitlines()) == 1


def patterns(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        here = [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        return here + [p for part in schema.values() for p in patterns(part)]
    return [p for part in schema for p in patterns(part)] if isinstance(schema, list) else []


@pytest.mark.parametrize("name", ["config", "family", "row"])
def test_patterns_describe_whole_texts(name: str) -> None:
    """Other readers of the schemas search for a pattern; ours matches the whole text."""
    found = patterns(catalog.schema(name))
    assert found
    assert all(pattern[0] == "^" and pattern[-1] == "$" for pattern in found)


@pytest.mark.parametrize("end", ["\n", "\r", "\0", "\u2028", "\x85"])
def test_no_character_hides_at_the_end_of_a_name(end: str) -> None:
    assert len(check.config_problems(valid() | {"run": f"name{end}"})) == 1


def test_a_family_is_called_like_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    families = {"other": catalog.families()["tiny"]}
    monkeypatch.setattr(catalog, "families", lambda: families)
    assert check.config_problems(valid() | {"families": ["other"]}) == [
        "config/families/other.yaml.family: 'tiny' is not the file's name 'other'"
    ]


@pytest.mark.parametrize("place", ["run", "cache", "task"])
def test_planning_executes_nothing_of_a_name(place: str, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, config_with(place, "c$(touch PWNED)"))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(checkout.config), "utf-8")
    snakefile = str(checkout.project / "Snakefile")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "-n", "--cores", "1"),
            *("--snakefile", snakefile, "--configfile", str(path)),
        ],
        cwd=tmp_path,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "touch PWNED" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("PWNED"))


def test_names_with_hyphens_are_read_back_from_paths(tmp_path: Path) -> None:
    entry = {"benchmark": "longbench", "tasks": ["repobench-p"], "shards": 2}
    config = valid() | {"benchmarks": [{**entry, "options": {"source": {"path": str(tmp_path)}}}]}
    output = Checkout(tmp_path, config).snakemake("-n")
    found = set(re.findall(r"wildcards: (.*benchmark=longbench.*)", output))
    datasets = {line.partition(", id=")[0] for line in found if "split=" in line}
    assert datasets == {"family=tiny, split=eval, benchmark=longbench, task=repobench-p"}
    jobs = {line for line in found if "split=" not in line}
    assert jobs == {f"family=tiny, benchmark=longbench, task=repobench-p@{i}" for i in (0, 1)}


def test_rules_quote_what_they_put_into_a_shell() -> None:
    """What a check lets through by mistake must still not be executed."""
    numbers = {"threads", "resources.gpu", "log:q"}
    for path in (catalog.ROOT / "workflow" / "rules").glob("*.smk"):
        commands = re.findall(
            r"(?:\bstep\(|shell:\s+|return f?)[^\n]*\"[^\n]*", path.read_text("utf-8")
        )
        fields = {f for command in commands for f in re.findall(r"\{+([\w.:]+)\}+", command)}
        unquoted = {f for f in fields - numbers if not f.endswith(":q")}
        assert unquoted <= {"offline", "call"}, f"{path.name}: {unquoted}"
