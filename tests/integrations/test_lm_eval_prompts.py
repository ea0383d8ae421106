"""The model reads lm-eval's own prompt once, and at retention 1 answers as lm-eval's `hf` model."""

# lm-eval's decorators hide the signatures behind them.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportTypedDictNotRequiredAccess=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from proxykv.benchmarks import tiny, tiny_language
from proxykv.config import catalog
from proxykv.integrations.lm_eval import PrunedLM
from proxykv.integrations.prompts import (
    answer_ends,
    answer_limit,
    context_seam,
    cut_at,
    prompt_ids,
    unmarked,
)
from proxykv.runtime.errors import ConfigError

TARGET = catalog.ROOT / "models" / "tiny" / "target"
TASKS = ("single", "multikey", "vt")
TEMPLATE = (
    "{% if messages[0].role != 'system' %}gold family . {% endif %}"
    "{% for m in messages %}{{ {'user': 'Question', 'system': 'lion'}.get(m.role, 'Repeat') }} : "
    "{{ m.content }} . {% endfor %}{% if add_generation_prompt %}Repeat : {% endif %}"
)
"""Like Qwen's: a default system text where the conversation has none."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of the tiny language, and a target with a chat template."""
    folder = tmp_path_factory.mktemp("lm-eval")
    shutil.copytree(TARGET, folder / "target")
    settings = folder / "target" / "tokenizer_config.json"
    settings.write_text(
        json.dumps({**json.loads(settings.read_text("utf-8")), "chat_template": TEMPLATE}), "utf-8"
    )
    for name in TASKS:
        examples = tiny.build(
            name,
            tokenizer=tiny_language.make_tokenizer(),
            contexts=2,
            lengths=[96],
            seed=1,
            split="eval",
        )
        docs = [
            {"context": e.context, "question": q.text, "answer": q.references[0]}
            for e in examples
            for q in e.questions
        ]
        lines = "".join(json.dumps(doc) + "\n" for doc in docs)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
        files = {"test": str(folder / f"{name}.jsonl")}
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "output_type": "generate_until",
            "test_split": "test",
            "fewshot_split": "test",
            "doc_to_text": "{{context}} {{question}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"max_new_tokens": 4, "until": ["."]},
            "metric_list": [{"metric": "exact_match"}],
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), "utf-8")
    return folder


def samples(model: Any, folder: Path, **settings: Any) -> list[dict[str, Any]]:
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(
        model,
        tasks=list(TASKS),
        task_manager=tasks,
        log_samples=True,
        bootstrap_iters=0,
        **settings,
    )
    assert found
    return [sample for task in TASKS for sample in found["samples"][task]]


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("template", [False, True])
def test_the_full_cache_answers_as_lm_evals_own_model(
    folder: Path, template: bool, shots: int
) -> None:
    settings: dict[str, Any] = {"num_fewshot": shots, "apply_chat_template": template}
    theirs = HFLM(pretrained=str(folder / "target"), device="cpu", dtype="float32", batch_size=1)
    ours = PrunedLM(str(folder / "target"), device="cpu", method="full")
    expected, found = (samples(model, folder, **settings) for model in (theirs, ours))
    assert len(found) == len(expected) >= 6
    uncut = 0
    for one, other in zip(found, expected, strict=True):
        ((prompt, generation),) = one["arguments"]
        assert prompt == other["arguments"][0][0]
        request = Instance("generate_until", one["doc"], (prompt, generation), 0)
        ids = ours.split(request)
        if not ids.clean_seam:
            continue
        uncut += 1
        encoded = theirs.tok_batch_encode([prompt])[0][0].tolist()
        assert [*ids.prefix, *ids.context, *ids.question] == encoded
        assert one["resps"] == other["resps"]
        assert bool(ids.prefix) == template
    assert uncut >= 0.9 * len(found)


def test_a_system_instruction_is_read_once(folder: Path) -> None:
    model = PrunedLM(str(folder / "target"), device="cpu", method="full")
    found = samples(
        model, folder, apply_chat_template=True, system_instruction="lion frost", limit=1
    )
    for sample in found:
        prompt = sample["arguments"][0][0]
        request = Instance("generate_until", sample["doc"], (prompt, {}), 0)
        ids = model.split(request)
        text = model.model.tokenizer.decode([*ids.prefix, *ids.context, *ids.question])
        assert text == prompt.strip()
        assert text.count("lion frost") == 1 and "gold family" not in text.split("Question")[0]
        assert model.model.tokenizer.decode(list(ids.prefix)) == "lion : lion frost . Question :"


def test_the_last_occurrence_of_the_context_ends_it() -> None:
    prompt = "A fact. Q: x A: y\n\nA fact. Q: z"
    assert prompt[context_seam(prompt, "A fact.", "t") :] == " Q: z"
    assert unmarked("A | Q: x\n\nB | Q: y", "|", "t") == ("A  Q: x\n\nB  Q: y", 11)
    with pytest.raises(ConfigError, match="give model_args marker="):
        context_seam(prompt, None, "t")


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens"])
def test_every_name_of_the_limit_counts(name: str) -> None:
    assert answer_limit({name: 5}) == 5
    assert answer_limit({"max_completion_tokens": 7}) == 7
    assert answer_limit({"max_gen_toks": 3, name: 3}) == 3
    assert answer_limit({}) == 256


@pytest.mark.parametrize(
    "settings", [{"do_sample": True}, {"temperature": 0.7}, {"do_sample": True, "temperature": 0}]
)
def test_sampling_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="decodes greedily"):
        answer_limit(settings)
    assert answer_limit({"do_sample": False, "temperature": 0.7, "max_gen_toks": 4}) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 4}, "remove num_beams"),
        ({"repetition_penalty": 1.5}, "remove repetition_penalty"),
        ({"min_new_tokens": 5}, "remove min_new_tokens"),
        ({"temperature": "warm"}, "temperature is 'warm'"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0; give 1 or more"),
        ({"max_new_tokens": 5.5}, "max_new_tokens is 5.5; give 1 or more"),
        ({"max_tokens": "many"}, "max_tokens is 'many'"),
        ({"max_gen_toks": True}, "max_gen_toks is True"),
        ({"max_length": 50, "max_gen_toks": 5}, "max_length counts the prompt"),
        ({"bad_words_ids": [[3]]}, "unknown 'bad_words_ids'"),
        ({"max_new_token": 5}, "unknown 'max_new_token'; did you mean 'max_new_tokens'"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        answer_limit(settings)


def test_settings_that_change_nothing_are_accepted() -> None:
    greedy = {
        "top_k": 5,
        "use_cache": True,
        "until": "a",
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "temperature": "0",
        "top_p": 0.9,
    }
    assert answer_limit({**greedy, "max_gen_toks": "5", "max_new_tokens": 9}) == 5


def test_texts_that_end_an_answer() -> None:
    assert [answer_ends({"until": u}) for u in (None, "", "a", ["a", "", "b"])] == [
        *([], [], ["a"], ["a", "b"])
    ]
    assert cut_at("x b y a z", ["a", "b"]) == "x "
    for until in (3, True, ["a", 3], [None], [["a"]], {"a": 1}, b"a"):
        with pytest.raises(ConfigError, match="give a text or a list of texts"):
            answer_ends({"until": until})


@pytest.mark.parametrize("border", [3, ["a"], {}])
def test_a_context_that_is_no_text_is_refused(border: Any) -> None:
    with pytest.raises(ConfigError, match="which is no text"):
        context_seam("a 3", border, "t")


def byte_level(bos: bool) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with two merges, which may put a BOS before every text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<s>", *letters, "ab", "Ġa"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


@pytest.mark.parametrize("bos", [False, True])
def test_the_parts_are_the_whole_prompts_ids_unless_a_token_spans_the_seam(bos: bool) -> None:
    tokenizer = byte_level(bos)
    prompt = "héllo ab 🙂 ac ab"
    encoded = tokenizer(prompt)["input_ids"]
    apart = []
    for seam in range(1, len(prompt)):
        ids = prompt_ids(tokenizer, prompt, 0, seam)
        assert len(ids.prefix) == bos
        parts = [*ids.prefix, *ids.context, *ids.question]
        assert tokenizer.decode(parts, skip_special_tokens=True) == prompt
        if ids.clean_seam:
            assert parts == encoded
        else:
            apart.append(seam)
            assert parts != encoded
    assert apart == [7, 11, 15]  # inside "ab", " a" and "ab"
    marked = prompt_ids(tokenizer, f"<s>{prompt}", 3, 8)
    assert [*marked.prefix, *marked.context, *marked.question].count(0) == 1


def test_arguments_of_the_command_line(folder: Path) -> None:
    made = PrunedLM.create_from_arg_string(
        f"target={TARGET},method=full,device=cpu", {"device": "cuda:0", "batch_size": 1}
    )
    assert made.model.device.type == "cpu"
    assert made.get_model_info()["pruning_method"] == "full"
    with pytest.raises(ConfigError, match="unknown 'retenton'; did you mean 'retention'"):
        PrunedLM.create_from_arg_string(f"target={TARGET},retenton=0.3")
    with pytest.raises(ConfigError, match="give target="):
        PrunedLM.create_from_arg_string("method=full")


def test_the_documented_command_runs_without_a_gpu(tmp_path: Path) -> None:
    record = {
        "input": "code Fivu",
        "context": "gold family melon border . code Fivu 24 12 . grain engine away rain market .",
        "answers": ["24 12"],
        "length": 12,
        "dataset": "qasper",
        "language": "en",
        "all_classes": None,
        "_id": "one",
    }
    (tmp_path / "qasper.jsonl").write_text(json.dumps(record) + "\n", "utf-8")
    metadata = json.dumps({"source": {"path": str(tmp_path)}})
    arguments = f"target={TARGET},method=kvzip,retention=0.3"
    command = [sys.executable, "-m", "proxykv", "lm-eval", "--tasks", "longbench_qasper"]
    options = ["--model_args", arguments, "--metadata", metadata]
    done = subprocess.run(
        [*command, *options, "--output_path", str(tmp_path / "out")],
        cwd=catalog.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("results*.json")
    settings = json.loads(results.read_text("utf-8"))["config"]
    assert settings["pruning_method"] == "kvzip" and settings["pruning_retention"] == 0.3
