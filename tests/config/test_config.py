"""What configs say: methods by name, presets that agree, every config that ships."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from method_fixture import needs_kvpress
from valid_config import Config, valid

from proxykv.cli import main
from proxykv.config import catalog
from proxykv.config.check import config_problems
from proxykv.config.keys.code import method_digest
from proxykv.config.run import Run
from proxykv.config.sources import missing_paths
from proxykv.runtime.errors import ConfigError

SHIPPED = [catalog.ROOT / "config.yaml", *sorted((catalog.ROOT / "config").glob("*.yaml"))]


def test_methods_with_a_colon_are_classes() -> None:
    """Of a user's module; by their names, or as the base of a method of another id."""
    variant = {"id": "own", "base": "baselines.streaming:Streaming", "params": {"sinks": 2}}
    methods = Run(valid() | {"methods": ["full", "baselines.random:Random", variant]}).methods
    assert [(m.base, m.scope) for m in methods.values()][1:] == [
        ("baselines.random:Random", "head"),
        ("baselines.streaming:Streaming", "head"),
    ]
    assert len({method_digest(method) for method in methods.values()}) == 3


def test_the_scope_is_in_a_methods_digest() -> None:
    variants = [{"id": scope, "base": "kvzip", "scope": scope} for scope in ("head", "layer")]
    methods = Run(valid() | {"methods": ["full", "kvzip", *variants]}).methods
    assert len({method_digest(method) for method in methods.values()}) == 4


@needs_kvpress
def test_presses_are_methods() -> None:
    adakv: Config = {"id": "adakv", "base": "kvpress:AdaKVPress", "scope": "custom"}
    adakv["params"] = {"press": {"name": "SnapKVPress"}, "alpha_safeguard": 0.1}
    methods = Run(valid() | {"methods": ["full", "kvpress:KnormPress", adakv]}).methods
    assert [(m.base, m.scope) for m in methods.values()][1:] == [
        ("kvpress", "head"),
        ("kvpress", "custom"),
    ]
    assert methods["kvpress:KnormPress"].params == {"name": "KnormPress"}
    assert methods["adakv"].params == {"name": "AdaKVPress", **adakv["params"]}
    assert len({method_digest(method) for method in methods.values()}) == 3


def test_a_task_s_own_seed_gives_other_contexts_and_leaves_all_else() -> None:
    """Fresh contexts for mappers that are trained already."""
    config = valid()
    given = Run(config)
    config["benchmarks"] = [entry | {"seed": 7} for entry in config["benchmarks"]]
    other = Run(config)
    (before, *_), (after, *_) = (run.datasets("tiny", "eval") for run in (given, other))
    assert (before.seed, after.seed) == (given.seed, 7) and before.path != after.path
    assert other.seed == given.seed
    assert other.datasets("tiny", "train") == given.datasets("tiny", "train")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs_are_valid(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "longbench_sample").mkdir()
    monkeypatch.setenv("PROXYKV_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(path.read_text("utf-8"))
    for method in config["methods"]:
        for family in config["families"] if isinstance(method, dict) and "fitted" in method else ():
            folder = tmp_path / method["fitted"].replace("{family}", family)
            folder.mkdir(parents=True)  # another run has fitted it
            (folder / "card.json").touch()
    assert main(["check", str(path)]) == 0
    assert f"{path}: ok" in capsys.readouterr().out


def test_a_variable_that_is_not_set_is_one_line_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = valid()
    config["corpus"][0] |= {"benchmark": "text", "tasks": ["prose"]}
    folder = {"kind": "folder", "files": "*", "path": "${NOWHERE_SET}/x"}
    config["corpus"][0]["options"] = {"sources": [folder, {**folder, "path": str(tmp_path)}]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    monkeypatch.delenv("NOWHERE_SET", raising=False)
    assert main(["check", str(path)]) == 2
    assert capsys.readouterr().err == (
        "config.corpus[0].options: path '${NOWHERE_SET}/x': ${NOWHERE_SET} is not set; export it\n"
    )
    monkeypatch.setenv("NOWHERE_SET", str(tmp_path))
    assert main(["check", str(path)]) == 2
    assert capsys.readouterr().err == (
        "config.corpus[0].options: path '${NOWHERE_SET}/x': no such folder or file; "
        "create it or correct the path\n"
    )
    (tmp_path / "x").mkdir()
    assert main(["check", str(path)]) == 0


@pytest.mark.parametrize("key", ["run", "cache"])
def test_a_file_where_a_folder_is_needed_is_one_line_before_anything_runs(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    taken = tmp_path / {"run": "results/taken", "cache": "taken"}[key]
    taken.touch()
    with pytest.raises(
        ConfigError, match=rf"config.{key}: \S*taken is a file; choose another name"
    ):
        Run(valid() | {key: "taken"}).require_sources()


def test_the_folder_of_a_press_is_looked_for_before_anything_runs(tmp_path: Path) -> None:
    files = {"folder": str(tmp_path / "x"), "model": "org/name", "sha256": "ab"}
    press = {"id": "q", "base": "kvpress:QFilterPress", "params": {"press_files": files}}
    config = valid() | {"methods": ["full", press]}
    assert missing_paths(config) == [
        f"config.methods[1].params.press_files: path '{tmp_path}/x': no such folder or file; "
        "create it or correct the path"
    ]
    (tmp_path / "x").mkdir()
    assert missing_paths(config) == []


def test_presets_of_one_family_train_the_same_mapper() -> None:
    """So that they share stored scores, and a mapper's figures hold for both."""
    ours, theirs = (
        yaml.safe_load((catalog.ROOT / "config" / name).read_text("utf-8"))
        for name in ("longbench-samples.yaml", "qwen-coder.yaml")
    )
    for key in ("families", "corpus", "training", "seed"):
        assert ours[key] == theirs[key]
    assert all(method in theirs["methods"] for method in ours["methods"])


def test_defaults_of_the_schema_satisfy_it() -> None:
    run = Run(valid())
    assert (run.seed, run.config["protocol"], run.config["batch_rows"]) == (
        0, "query_agnostic", None
    )  # fmt: skip
    assert config_problems(run.config) == []


def test_a_run_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(valid())
    again = Run.read(run.write())
    assert again.digest == run.digest
    assert [c.dataset.path for c in again.jobs()] == [c.dataset.path for c in run.jobs()]
    with pytest.raises(ConfigError, match="no such file; the workflow writes it"):
        Run.read(Path("results/other/config.json"))


def test_what_shows_transfer_is_not_trained_on() -> None:
    config = valid()
    config["corpus"][0] |= {"benchmark": "scbench", "tasks": ["kv", "repoqa"]}
    assert "config.corpus[0]: scbench/repoqa is held out from all training; remove it" in (
        config_problems(config)
    )
    source = {"kind": "hub", "name": "microsoft/SCBench", "files": "scbench_repoqa"}
    options = {"sources": [source]}
    config["corpus"][0] |= {"benchmark": "text", "tasks": ["code"], "options": options}
    assert (
        "config.corpus[0].options: RepoQA is held out from all training; take another source"
        in config_problems(config)
    )
