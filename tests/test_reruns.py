"""What an edit plans again: exactly what depends on it.

Every edit is made in a copy of the project with a finished run, whose files are empty: the workflow
has run, with a stand-in for its steps.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from checkout import DATASET, TASKS, Checkout, copy_project

from proxykv.config import catalog, paths
from proxykv.config.efficiency import measuring_jobs
from proxykv.config.run import Run

CONFIG: dict[str, Any] = {
    "run": "reruns",
    "families": ["tiny"],
    "retentions": [0.1, 1.0],
    "methods": ["full", "snapkv", "kvzip", "proxykv", "prior"],
    "benchmarks": [{**DATASET, "tasks": TASKS}],
    "corpus": [{**DATASET, "tasks": ["single"], "contexts": 3}],
    "training": {"steps": 3, "warmup": 1, "val_contexts": 1, "crop": 64},
    "efficiency": [
        {"name": "scan", "methods": ["full", "snapkv"], "lengths": [64], "retentions": [0.1]}
    ],
}
PAGES = ["plot", "report", "tabulate"]
ROWS = [*(f"grade {task}" for task in TASKS), *PAGES]
ANSWERS = [*(f"generate {task}" for task in TASKS), *ROWS]
FITS = ["fit prior", "fit proxykv", *ANSWERS]
SCORES = ["extract", *FITS]
DATA = ["prepare single", "prepare single", "prepare vt", "screen_tiny", *SCORES]


STAND_IN = """
import json
from pathlib import Path

for path in map(Path, json.loads(Path("files.json").read_text("utf-8"))):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch()
"""
"""A step that makes the files which are missing: those of its job, which Snakemake has removed."""


def files(run: Run) -> list[Path]:
    """What the steps of a run make."""
    return [
        *(data.path for split in ("train", "eval") for data in run.datasets("tiny", split)),
        *(*paths.score_lists(run, "tiny"), paths.screening(run, "tiny")),
        paths.dropped(run, "tiny"),
        *(paths.fitted_dir(run, "tiny", fitted_id) / "card.json" for fitted_id in run.fitted_ids),
        *(job.file(kind) for kind in ("predictions", "rows") for job in run.jobs()),
        *(job.file for job in measuring_jobs(run)),
        *(run.dir / "tables" / name for name in ("leaderboard.csv", "provenance.json")),
        *(run.dir / "figures" / f"{name}.svg" for name in ("accuracy_retention", "pareto")),
        run.dir / "report" / "index.html",
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A run of which every file is there; nothing is planned."""
    made = Checkout(tmp_path_factory.mktemp("reruns"), deepcopy(CONFIG))
    (made.folder / "models").unlink()
    shutil.copytree(catalog.ROOT / "models", made.folder / "models")
    made.project = copy_project(made.folder / "project")
    run = made.run
    (made.folder / "files.json").write_text(json.dumps([str(path) for path in files(run)]), "utf-8")
    main = made.project / "proxykv" / "__main__.py"
    kept = main.read_text("utf-8")
    main.write_text(STAND_IN, "utf-8")
    made.snakemake()
    main.write_text(kept, "utf-8")
    assert made.planned() == []
    return made


@pytest.fixture
def checkout(finished: Checkout) -> Iterator[Checkout]:
    """The finished run; edits are taken back afterwards."""
    kept = {path: path.read_bytes() for path in _editable(finished)}
    yield finished
    for path in _editable(finished):
        if path not in kept:
            path.unlink()
        elif path.read_bytes() != kept[path]:
            path.write_bytes(kept[path])
    finished.config = deepcopy(CONFIG)


def _editable(checkout: Checkout) -> list[Path]:
    folders = [checkout.folder / "models", checkout.project]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts and ".git" not in path.parts]


Edit = Callable[[Checkout], object]


def code(file: str, old: str, new: str) -> Edit:
    """An edit of a file of the project."""

    def edit(checkout: Checkout) -> None:
        path = checkout.project / file
        text = path.read_text("utf-8")
        assert old in text, f"{file} holds no {old!r}"
        path.write_text(text.replace(old, new, 1), "utf-8")

    return edit


def inside(file: str, function: str) -> Edit:
    """Another statement at the start of a function's body."""

    def edit(checkout: Checkout) -> None:
        path = checkout.project / file
        before, head, rest = path.read_text("utf-8").partition(f"\ndef {function}(")
        assert head, f"{file} has no {function}"
        signature, arrow, body = rest.partition(":\n    ")
        path.write_text(f"{before}{head}{signature}{arrow}edited = 1\n    {body}", "utf-8")

    return edit


def model(role: str, file: str, **entries: Any) -> Edit:
    """An edit of a JSON file of a model."""

    def edit(checkout: Checkout) -> None:
        path = checkout.folder / "models" / "tiny" / role / file
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **entries}), "utf-8")

    return edit


def another_family(checkout: Checkout) -> None:
    """A second family of the same models."""
    text = (checkout.project / FAMILY).read_text("utf-8").replace("family: tiny", "family: twin")
    (checkout.project / FAMILY).with_stem("twin").write_text(text, "utf-8")
    checkout.config["families"] = ["tiny", "twin"]


def config(**entries: Any) -> Edit:
    """Other values in the config."""
    return lambda checkout: checkout.config.update(entries)


TARGET = Path("models/tiny/target")
INDEX = "model.safetensors.index.json"
METHODS = CONFIG["methods"]
BY_PREFILL = {"id": "by_prefill", "base": "proxykv", "params": {"signal": "prefill"}}
ROW = "workflow/schemas/row.schema.yaml"
FAMILY = "config/families/tiny.yaml"
EDITS: dict[str, tuple[Edit, list[str]]] = {
    "a comment": (code("baselines/snapkv.py", "class SnapKV", "# Why.\nclass SnapKV"), []),
    "a docstring": (code("baselines/snapkv.py", '"""', '"""Also: '), []),
    "a method's code": (
        code("baselines/snapkv.py", "class SnapKV", "E = 1\n\n\nclass SnapKV"),
        ["efficiency", *ANSWERS],
    ),
    "a method's card": (code("baselines/snapkv.py", '"label": "', '"label": "The '), PAGES),
    "how a method is fitted": (
        inside("baselines/prior.py", "fit"), ["fit prior", *ANSWERS]
    ),
    "the fit step": (inside("proxykv/steps/fit.py", "fit"), FITS),
    "what is fitted on": (inside("proxykv/mapper/corpus.py", "fitted_on"), FITS),
    "the extraction": (inside("proxykv/steps/extract.py", "extract"), SCORES),
    "the screening": (
        inside("proxykv/steps/screen.py", "ngrams"), ["screen_tiny", "tabulate", "report"]
    ),
    "how a benchmark grades": (inside("proxykv/benchmarks/tiny.py", "score"), ROWS),
    "how a benchmark is made": (inside("proxykv/benchmarks/tiny.py", "build"), DATA),
    "the grading step": (inside("proxykv/steps/grade.py", "grade"), ROWS),
    "a column of rows": (
        code(ROW, "seed: {type: integer", "seed: {type: number"), ROWS
    ),
    "the description of a column": (
        code(ROW, "index of the question", "number of the question"), []
    ),
    "a table": (
        inside("proxykv/report/tables/comparisons.py", "paired"), ["tabulate", "report"]
    ),
    "a figure": (
        code("proxykv/report/plots/pareto.py", "\ndef ", "\nE = 1\n\n\ndef "), ["plot", "report"]
    ),
    "the report's page": (
        code("proxykv/report/templates/index.html.j2", "<body", "<body id=b"), ["report"]
    ),
    "the report's script": (
        code("proxykv/report/templates/script.js", "\n", "\nconst e = 1;\n"), ["report"]
    ),
    "the verdict": (inside("proxykv/report/verdict.py", "verdicts"), ["report"]),
    "a seed": (config(seed=1), ["efficiency", *DATA]),
    "the protocol": (config(protocol="query_aware"), ANSWERS),
    "the training": (config(training={**CONFIG["training"], "steps": 4}), ["efficiency", *FITS]),
    "the loss": (
        config(training={**CONFIG["training"], "weights": {"mse": 1.0}}), ["efficiency", *FITS]
    ),
    "what is held out": (
        config(corpus=[{**CONFIG["corpus"][0], "held_out": 1}]), ["screen_tiny", *FITS]
    ),
    "a retention": (config(retentions=[0.1, 0.3, 1.0]), ANSWERS),
    "a method": (config(methods=[*METHODS, "random"]), ANSWERS),
    "a method that shares a fit": (config(methods=[*METHODS, "prior_mean"]), ANSWERS),
    "a fitted method": (
        config(methods=[*METHODS, "surrogate"]), ["extract_inputs", "fit surrogate", *ANSWERS]
    ),
    "a fitted method with a new signal": (
        config(methods=[*METHODS, BY_PREFILL]), ["extract_signal", "fit by_prefill", *ANSWERS]
    ),
    "a task": (
        config(benchmarks=[{**DATASET, "tasks": [*TASKS, "multikey"]}]),
        ["prepare multikey", "screen_tiny", "generate multikey", "grade multikey", *PAGES],
    ),
    "a family": (
        another_family, ["efficiency", *(j.replace("screen_tiny", "screen_twin") for j in DATA)]
    ),
    "comparisons": (
        config(comparisons=[{"group": "more", "pairs": [["kvzip", "snapkv"]]}]), PAGES
    ),
    "a family's device": (code(FAMILY, "device: cpu", "device: auto"), []),
    "a family's resources": (code(FAMILY, "mem_mb: ", "mem_mb: 1"), []),
    "EOS": (model("target", "generation_config.json", eos_token_id=[1, 2]), ANSWERS),
    "no EOS": (model("target", "generation_config.json", eos_token_id=None), ANSWERS),
    "sampling": (model("target", "generation_config.json", temperature=0.3, do_sample=True), []),
    "EOS of the proxy, which never answers": (
        model("proxy", "generation_config.json", eos_token_id=[1, 2]), []
    ),
    "the index of the weights": (
        lambda checkout: (checkout.folder / TARGET / INDEX).write_text('{"weight_map": {}}'),
        ["efficiency", *SCORES],
    ),
    "RoPE of the target": (model("target", "config.json", rope_theta=5e5), ["efficiency", *SCORES]),
    "RoPE of the proxy": (model("proxy", "config.json", rope_theta=5e5), ["efficiency", *SCORES]),
    "the tokenizer": (
        model("target", "tokenizer_config.json", add_bos_token=True), ["efficiency", *DATA]
    ),
    "the special tokens": (
        lambda made: (made.folder / TARGET / "special_tokens_map.json").write_text("{}", "utf-8"),
        ["efficiency", *DATA],
    ),
    "a file that no model reads": (
        lambda checkout: (checkout.folder / TARGET / "notes.md").write_text("new"), []
    ),
    "a template that is not used": (
        model("target", "tokenizer_config.json", chat_template="{{ messages }}"), []
    ),
}  # fmt: skip


STEP = re.compile(r'step\(\s*"([a-z-]+)')
BY_METHOD = {"generate": "job_keys.answering", "efficiency": "job_keys.measuring"}
BY_METHOD["fit"] = "fit_digest"
"""Steps whose code depends on the methods."""


def test_every_step_is_run_again_after_a_change_of_its_code() -> None:
    found = []
    for path in (catalog.ROOT / "workflow" / "rules").glob("*.smk"):
        for rule in re.split(r"\n(?=rule |for )", path.read_text("utf-8")):
            for step in STEP.findall(rule):
                entry = step.replace("-", "_")
                assert BY_METHOD.get(step, f':{entry}"') in rule or step == "convert", step
                found.append(step)
    assert len(found) == len(set(found)) > 10


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_plans_what_depends_on_it(checkout: Checkout, name: str) -> None:
    edit, expected = EDITS[name]
    edit(checkout)
    assert checkout.planned() == sorted(expected)
