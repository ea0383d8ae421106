"""A mapper is pushed with its page, and pulled as it was; whatever is wrong is one line."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hub_client import Client, Outcome
from stand_in_hub import OTHER_TOKEN, OWNERS_TOKEN, Cut, StandInHub

import proxykv
from proxykv.cli import main
from proxykv.config import catalog
from proxykv.integrations.hub_mapper import model_card
from proxykv.mapper.fitted import load_card, save_fitted

TINY = catalog.ROOT / "models" / "tiny"
MAPPER = Path("results/tiny/mappers/tiny/proxykv")
OWNER = {"HF_TOKEN": OWNERS_TOKEN}


def command(client: Client, line: str, **env: str) -> Outcome:
    """Run a command line; the value is its exit status."""
    return client.call(main, shlex.split(line)[1:], env=env)


@pytest.fixture
def mapper(trained: Path) -> Path:
    return trained / MAPPER


def push(client: Client, mapper: Path, name: str) -> str:
    """Push as the owner; returns the command that pulls, without the folder."""
    pushed = command(client, f"proxykv push {mapper} {name}", **OWNER)
    assert pushed.value == 0, pushed.printed
    return pushed.printed.strip().rpartition(" ")[0]


def test_a_pulled_mapper_prunes(
    hub: StandInHub, client: Client, mapper: Path, tmp_path: Path
) -> None:
    pull = push(client, mapper, "me/first")
    assert re.fullmatch(r"proxykv pull me/first --revision [0-9a-f]{40}", pull)
    pulled = command(client, f"{pull} {tmp_path}/pulled")
    assert pulled.printed == f"{tmp_path}/pulled\n"
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == {
        "card.json",
        "weights.safetensors",
    }
    for path in (tmp_path / "pulled").iterdir():
        assert path.read_bytes() == (mapper / path.name).read_bytes()
    text = "code river 4 7 ."
    contexts = [
        proxykv.load_pair(TINY / "target", TINY / "proxy", folder, device="cpu").prune(text, 0.5)
        for folder in (mapper, tmp_path / "pulled")
    ]
    answers = [context.ask("Question : code river", 2) for context in contexts]
    assert answers[0] == answers[1]


def test_the_page_says_what_the_mapper_is(hub: StandInHub, client: Client, mapper: Path) -> None:
    pull = push(client, mapper, "me/shown")
    repository = hub.repositories["models", "me/shown"]
    files = repository.commits[repository.branches["main"]]
    assert set(files) == {".gitattributes", "README.md", "card.json", "weights.safetensors"}
    page, card = files["README.md"].decode(), load_card(mapper)
    assert yaml.safe_load(page.split("---")[1])["license"] == "apache-2.0"
    assert f"{pull} mappers/shown" in page
    assert "fitted: mappers/shown}" in page
    assert "base_model" not in page  # local folders
    for text in ("models/tiny/target", card["target_hash"], card["proxy_hash"], "float32"):
        assert text in page
    row = next(line for line in page.splitlines() if line.startswith("| head_overlap |"))
    overlaps = [v for name, v in card["metrics"].items() if name.startswith("head_overlap@")]
    assert row == "| head_overlap | " + " | ".join(f"{v:.3f}" for v in overlaps) + " |"


def test_the_page_names_models_of_the_hub(mapper: Path) -> None:
    card = load_card(mapper)
    named = {"hub": "org/Large", "revision": "a" * 40, "dtype": "bfloat16"}
    models = card["models"] | {"target": named}
    page = model_card(card | {"models": models}, "me/x", "b" * 40, "LicenseRef-Llama-3.1")
    assert "base_model:\n- org/Large\n" in page
    assert "license: other\nlicense_name: Llama-3.1\n" in page
    assert f"| target | org/Large at {'a' * 40} | bfloat16 |" in page


def test_pushing_again_is_no_new_commit_of_the_mapper(
    hub: StandInHub, client: Client, mapper: Path
) -> None:
    push(client, mapper, "me/again")
    hub.requests.clear()
    push(client, mapper, "me/again")
    assert not any(request.startswith("PUT") for request in hub.requests)


def test_refused_pushes_are_one_line(
    hub: StandInHub, client: Client, mapper: Path, tmp_path: Path
) -> None:
    other = tmp_path / "changed"
    shutil.copytree(mapper, other)
    (other / "weights.safetensors").write_bytes(b"other")
    prior = tmp_path / "prior"
    save_fitted(prior, {"mean": torch.zeros(2)}, {"family": "tiny"})
    to = "me/refused"
    cases = [
        (command(client, f"proxykv push {mapper} {to}"), "accept HF_TOKEN; set it to a token"),
        (command(client, f"proxykv push {mapper} {to}", HF_TOKEN=OTHER_TOKEN), "may not do this"),
        (command(client, f"proxykv push {mapper} {to}", HF_TOKEN="hf_no"), "HF_TOKEN; replace it"),
        (command(client, f"proxykv push {tmp_path} {to}", **OWNER), "nothing fitted here"),
        (command(client, f"proxykv push {prior} {to}", **OWNER), "not a mapper; give that of a"),
        (command(client, f"proxykv push {other} {to}", **OWNER), "do not belong together"),
    ]
    with hub.stopped():
        cases += [(command(client, f"proxykv push {mapper} {to}", **OWNER), "does not answer")]
    for outcome, message in cases:
        assert outcome.value == 2
        assert message in outcome.printed
        assert len(outcome.printed.splitlines()) == 1
        assert outcome.seconds < 5
    assert ("models", to) not in hub.repositories


def test_refused_pulls_are_one_line_and_leave_no_folder(
    hub: StandInHub, client: Client, mapper: Path, tmp_path: Path
) -> None:
    pull = push(client, mapper, "me/source")
    files = {path.name: path.read_bytes() for path in mapper.iterdir()}
    bare = hub.publish("models", "some/bare", {"config.json": b"{}"})
    mixed = hub.publish("models", "some/mixed", files | {"weights.safetensors": b"other"})
    (tmp_path / "there").mkdir()
    to = tmp_path / "to"
    cases = [
        (command(client, f"{pull} {tmp_path}/there"), "there exists; delete it, or name another"),
        (command(client, f"proxykv pull me/source --revision main {to}"), "is not a commit"),
        (command(client, f"proxykv pull me/source --revision {'0' * 40} {to}"), "no such commit"),
        (command(client, f"proxykv pull some/bare --revision {bare} {to}a"), "no mapper (no wei"),
        (command(client, f"proxykv pull some/mixed --revision {mixed} {to}b"), "do not belong to"),
    ]
    for outcome, message in cases:
        assert outcome.value == 2
        assert message in outcome.printed
        assert len(outcome.printed.splitlines()) == 1
    assert not [path for path in tmp_path.glob("to*") if path.suffix != ".partial"]


def test_a_broken_pull_goes_on(
    hub: StandInHub, client: Client, mapper: Path, tmp_path: Path
) -> None:
    pull = push(client, mapper, "me/broken")
    hub.cuts["weights.safetensors"] = Cut(100, times=1, reset=True)
    broken = command(client, f"{pull} {tmp_path}/to")
    assert broken.value == 2
    assert "the transfer broke off" in broken.printed
    assert command(client, f"{pull} {tmp_path}/to").value == 0
    hub.cuts["weights.safetensors"] = Cut(100, times=1, reset=False)
    assert command(client, f"{pull} {tmp_path}/another").value == 0
