"""Mistakes on the command line."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from valid_config import valid

from proxykv.cli import EXAMPLES, main, parser
from proxykv.cli.arguments import config_file
from proxykv.config import catalog
from proxykv.config.run import Run
from proxykv.runtime.yaml_file import read_yaml


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["check", "bad.yaml"], "bad.yaml: not YAML"),
        (["check", "."], ".: cannot be read as text"),
        (["status", "--config", "list.yaml"], "list.yaml: not JSON; give the run's results"),
        (["check", "list.yaml"], "config: ['full'] is not of type 'object'"),
        (
            ["generate", "tiny", "tiny", "singel", "--config", "run.json"],
            "did you mean 'tiny tiny single'?",
        ),
        (["screen", "tinny", "--config", "run.json"], "no family 'tinny'; did you mean 'tiny'?"),
        (["fit", "tiny", "kvzip", "--config", "run.json"], "no fitted method 'kvzip'; known: p"),
        (["fit", "tiny", "../x", "--config", "run.json"], "no fitted method '../x'; known: p"),
        (["fit", "..", "proxykv", "--gpus", "0", "--config", "run.json"], "no family '..'; kn"),
        (["extract", "tiny", "0", "--config", "run.json"], "no shard '0'; the corpus has 1, num"),
        (["extract", "tiny", "x", "--config", "run.json"], "no shard 'x'"),
        (["extract-inputs", "tiny", "2", "--config", "run.json"], "no shard '2'"),
        (["check", "--family", ""], "no family ''; known: "),
        (["check", "twice.yaml"], "the key 'run' is listed twice"),
        (["prepare", "cache/x", "--config", "run.json"], "run 'test' has no dataset 'cache/x"),
        (["status", "--config", "nowhere.json"], "nowhere.json: no such file"),
        (["status", "--config", "tiny"], "results/tiny/config.json: no such file; the workflow"),
        (["merge", "a", "b", "--output", "bad.yaml/x"], "a/config.json: no such file"),
        (["pull", "a b", "--revision", "0" * 40, "m"], "'a b': no repository of the hub"),
        (["pull", "a/b\n", "--revision", "0" * 40, "m"], "'a/b\\n': holds a character that c"),
        (["run", "config\nx"], "'config\\nx': holds a character that cannot be printed"),
        (["merge", "a\0b", "c", "--output", "d"], "'a\\x00b': holds a character that cannot"),
        (["status", "--config", "tiny\u200b"], "'tiny\\u200b': holds a character that cannot be"),
        (["pull", "a/b", "m", "--revision=--"], "--revision=--: `--` is no value"),
        (["run", "a" * 300], "aaa: too long for the name of a file"),
        (["audit", "a" * 300], "aaa: too long for the name of a file"),
        (["run", "."], ".: cannot be read as text"),
        (["run", "bad.yaml"], "bad.yaml: not YAML"),
        (["run", "$(touch PWNED)"], "$(touch PWNED): no such file, nor a preset"),
        (["run", "--", "x; touch PWNED"], "x; touch PWNED: no such file, nor a preset"),
        (["forget", "--config", "run.json", "--family="], "no family ''; known: tiny"),
        (["forget", "--config", "run.json", "--method", "kvzipp"], "did you mean 'kvzip'?"),
        (
            ["forget", "--config", "run.json", "--method", "kvzip", "--task", "vt"],
            "run 'test' has no task 'vt'; known: single",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("run: [unclosed\nfamilies: :", "utf-8")
    Path("list.yaml").write_text("[full]", "utf-8")
    Path("twice.yaml").write_text("run: a\nrun: b\n", "utf-8")
    Run(valid()).write().rename("run.json")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert len(err.splitlines()) == 1
    assert not out
    assert not [*Path().rglob("*.lock"), *Path().rglob("PWNED")]


def test_the_environment_names_a_config_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROXYKV_CONFIG", "tiny\n$(touch PWNED)")
    assert main(["status"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_examples_in_the_help_are_commands_and_name_presets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = parser()
    commands.print_help()
    known = re.findall(r"^    ([a-z-]+)(?:  |$)", capsys.readouterr().out, re.M)
    lines = re.findall(r"^  (proxykv .*?)(?:   |$)", EXAMPLES, re.M)
    for name in known:
        with pytest.raises(SystemExit):
            commands.parse_args([name, "--help"])
        lines += re.findall(r"^  (proxykv .*)$", capsys.readouterr().out, re.M)
    assert {line.split()[1] for line in lines} >= {"run", "check", "status", "audit", "lm-eval"}
    for line in lines:
        given, _ = commands.parse_known_args(shlex.split(line)[1:])
        preset = getattr(given, "configfile", None) or getattr(given, "preset", None)
        assert preset in (None, "my.yaml", "config.yaml") or config_file(preset).is_file()


def test_a_shell_completes_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", "bash"])
    assert not end.value.code
    call = """
COMP_WORDS=(proxykv st); COMP_CWORD=1
$(complete -p proxykv | sed "s/.*-F \\([^ ]*\\).*/\\1/")
echo "${COMPREPLY[@]}"
"""
    script = capsys.readouterr().out + call
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "status\n"


def test_the_run_of_a_preset_has_its_name() -> None:
    for path in (catalog.ROOT / "config").glob("*.yaml"):
        assert read_yaml(path)["run"] == path.stem


def test_presets_and_runs_are_named_without_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", "qwen-coder"]) == 0
    assert "ok; run 'qwen-coder'" in capsys.readouterr().out
    Run(valid()).write()
    Path("results/v1.json").symlink_to("test")  # a run may be called so
    for name in ("test", "results/test", "results/test/config.json", "v1.json"):
        assert main(["status", "--config", name]) == 0
        assert "missing" in capsys.readouterr().out
        monkeypatch.setenv("PROXYKV_CONFIG", name)
        assert main(["forget", "--method", "kvzip"]) == 0
    with pytest.raises(SystemExit):
        main(["audit", "test"])
    assert "results/test/tables/provenance.json: missing" in capsys.readouterr().out
    assert main(["archive", "test", "x.zip"]) == 2
    assert "results/test" in capsys.readouterr().err
    assert main(["export", "qwen-codr", "x.jsonl.gz"]) == 2
    assert "qwen-codr: no such file, nor a preset (" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--gpus=-1", "--gpus=x", "--threads=0", "--threads=1.5"])
def test_numbers_that_no_machine_has_are_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "tiny", "proxykv", "--config", "run.json", option])
    assert end.value.code == 2
    assert "is no whole number from" in capsys.readouterr().err.splitlines()[-1]


def test_planning_a_bad_config_prints_the_line_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(valid() | {"methods": ["full", "kvzp"]}), "utf-8")
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", str(path)]
    done = subprocess.run(
        [*command, "--snakefile", str(catalog.ROOT / "Snakefile")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "config.methods: unknown method 'kvzp'; did you mean 'kvzip'?" in output
    assert "Traceback" not in output
