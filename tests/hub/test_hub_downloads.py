"""Models and benchmarks come from a hub through its real client, or one line says why not."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import ruler_corpus
import scbench_corpus
from hub_client import Client, Outcome
from stand_in_hub import OTHER_TOKEN, OWNERS_TOKEN, Cut, StandInHub
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from proxykv.benchmarks import longbench, ruler, scbench
from proxykv.benchmarks.records import read_records
from proxykv.config import catalog
from proxykv.model.verify import verify
from proxykv.runtime import hub as product
from proxykv.steps.convert import convert

TINY = catalog.ROOT / "models" / "tiny"
TOKENIZER = Tokenizer.from_file(str(TINY / "proxy" / "tokenizer.json"))
NOWHERE = "0" * 40
SOON = 5.0
"""Seconds for a refusal, on a busy machine; the client's own retries would take 23."""

RECORD = {
    "input": "Which?",
    "context": "A text. " * 20,
    "answers": ["this"],
    "length": 20,
    "dataset": "qasper",
    "language": "en",
    "all_classes": None,
    "_id": "one",
}


def data_zip() -> bytes:
    """LongBench's archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data/qasper.jsonl", json.dumps(RECORD) + "\n")
        file.writestr("data/qasper_e.jsonl", '{"of": "another benchmark"}\n')
    return archive.getvalue()


def write_longbench(folder: Path) -> None:
    (folder / "data.zip").write_bytes(data_zip())
    (folder / "LongBench.py").write_text("raise SystemExit('never run')\n", "utf-8")


def write_ready(folder: Path) -> None:
    ruler_corpus.write_ready(folder, ("vt", "cwe"))


PUBLISHED = {
    "longbench": (
        write_longbench,
        longbench.build,
        "qasper",
        {"split": "eval", "max_context": 4096},
        "source",
    ),
    "scbench": (scbench_corpus.write_parquet, scbench.build, "kv", {"max_context": 8192}, "source"),
    "ruler": (
        write_ready,
        ruler.build,
        "vt",
        {"split": "eval", "lengths": [4096], "seed": 0, "contexts": 2},
        "samples",
    ),
}
"""How each benchmark is published, and the call that takes it from there."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_benchmark_from_the_hub_is_the_one_in_a_folder(
    name: str, hub: StandInHub, client: Client, tmp_path: Path
) -> None:
    write, build, task, options, source = PUBLISHED[name]
    write(tmp_path)
    commit = hub.publish("datasets", f"published/{name}", tmp_path)
    options = {**options, "tokenizer": TOKENIZER}
    there = {source: {"hub": f"published/{name}", "revision": commit}}
    found = client.call(build, task, **options, **there)
    assert found.line is None
    assert found.value == build(task, **options, **{source: {"path": str(tmp_path)}})
    assert not any("LongBench.py" in request for request in hub.requests)
    hub.requests.clear()
    with hub.stopped():
        assert client.call(build, task, **options, **there).value == found.value  # from the cache


def with_xet(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call with the client's Xet storage, of which a server may know nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
        return function(*args, **options)


def test_a_server_without_xet_gives_files_and_an_upload_says_so(
    hub: StandInHub, client: Client
) -> None:
    content = b"large" * 99
    commit = hub.publish("datasets", "no/xet", {"data.zip": content})
    found = client.call(with_xet, product.download, "no/xet", commit, ["*"], kind="dataset")
    assert (found.value / "data.zip").read_bytes() == content
    files = {"weights.safetensors": content}
    given = (with_xet, product.upload, "me/xet", files, "message", False)
    refused = client.call(*given, env={"HF_TOKEN": OWNERS_TOKEN})
    assert "Xet storage failed" in (refused.line or "")
    assert "run the command again, or set HF_HUB_DISABLE_XET=1" in (refused.line or "")
    assert "\n" not in (refused.line or "")
    assert refused.seconds < SOON


def test_only_files_of_that_name_are_fetched(hub: StandInHub, client: Client) -> None:
    files = {"qa/test.jsonl": b'{"a": 1}\n', "kv/test.jsonl": b'{"a": 2}\n', "data.zip": data_zip()}
    source = {"hub": "some/bench", "revision": hub.publish("datasets", "some/bench", files)}
    assert client.call(read_records, source, "kv").value == [{"a": 2}]
    assert [request for request in hub.requests if "qa" in request or "zip" in request] == []
    assert client.call(read_records, source, "qa").value == [{"a": 1}]
    assert "no vt.jsonl" in (client.call(read_records, source, "vt").line or "")


def model_entry(hub: StandInHub, name: str, **access: bool) -> dict[str, Any]:
    """A published model, as a family's file names it."""
    commit = hub.publish("models", name, TINY / "target", **access)
    entry = {"hub": name, "revision": commit, "device": "cpu"}
    return entry | {"dtype": "float32", "chat": False}


def test_a_model_becomes_a_folder_that_loads(
    hub: StandInHub, client: Client, tmp_path: Path
) -> None:
    files = {"onnx/model.safetensors": b"another format", "weights.bin": b"pickled"}
    files |= {path.name: path.read_bytes() for path in (TINY / "target").iterdir()}
    entry = {"hub": "some/model", "revision": hub.publish("models", "some/model", files)}
    entry |= {"dtype": "float32", "chat": False}
    assert client.call(convert, entry, tmp_path / "model").line is None
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        *(path.name for path in (TINY / "target").iterdir() if path.suffix != ".md"),
        "provenance.json",
    }
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters() > 0


def fetch(hub: StandInHub, client: Client, name: str = "", **options: Any) -> Outcome:
    """Ask for the records of a data set; `kind`, `revision`, `env` differ from the ordinary."""
    revision = options.pop("revision", None)
    files = {"kv.jsonl": b'{"a": 1}\n'}
    if name:
        published = hub.publish("datasets", name, files, **options.pop("access", {}))
    else:
        name, published = "no/where", NOWHERE
    source = {"hub": name, "revision": revision or published}
    return client.call(read_records, source, "kv", **options)


def test_refusals_are_one_line_each_at_once(hub: StandInHub, client: Client) -> None:
    gated, private = {"gated": True}, {"private": True}
    other, owner, wrong = ({"HF_TOKEN": t} for t in (OTHER_TOKEN, OWNERS_TOKEN, "hf_wrong"))
    cases = [
        (fetch(hub, client), "has no such repository; correct the name, or give HF_TOKEN access"),
        (fetch(hub, client, "has/moved", revision=NOWHERE), "has no such commit; correct `rev"),
        (fetch(hub, client, "has/gate", access=gated), "gated, and there is no token; accept its"),
        (fetch(hub, client, "has/gates", access=gated, env=other), "account (HF_TOKEN) may not"),
        (fetch(hub, client, "has/door", access=private), "no such repository; correct the name"),
        (
            fetch(hub, client, "has/doors", access=private, env=wrong),
            "not accept HF_TOKEN; replace",
        ),
        (fetch(hub, client, "not a/name"), "no repository of the hub; give organisation/name"),
    ]
    for outcome, message in cases:
        assert message in (outcome.line or ""), outcome
        assert "\n" not in (outcome.line or "")
        assert outcome.seconds < SOON, outcome
    for name, access in (("has/key", gated), ("has/keys", private)):
        assert fetch(hub, client, name, access=access, env=owner).value == [{"a": 1}]


def test_without_a_network_one_line_comes_at_once(hub: StandInHub, client: Client) -> None:
    with hub.stopped():
        outcome = fetch(hub, client, "has/files")
    assert outcome.line == (
        f"dataset has/files at {hub.repositories['datasets', 'has/files'].branches['main']}: "
        f"{hub.endpoint} does not answer ([Errno 111] Connection refused); check the network and "
        "HF_ENDPOINT; or give a local `path`"
    )
    assert outcome.seconds < SOON


@pytest.mark.parametrize("after", [0, 1000])
def test_a_broken_transfer_is_one_line_and_a_rerun_finishes(
    after: int, hub: StandInHub, client: Client, tmp_path: Path
) -> None:
    entry = model_entry(hub, f"some/broken{after}")
    hub.cuts["model.safetensors"] = Cut(after, times=1, reset=True)
    outcome = client.call(convert, entry, tmp_path / "model")
    assert "the transfer broke off ([Errno 104] Connection reset by peer); run" in (
        outcome.line or ""
    )
    assert "\n" not in (outcome.line or "")
    assert outcome.seconds < SOON
    assert not (tmp_path / "model").exists()
    hub.requests.clear()
    assert client.call(convert, entry, tmp_path / "model").line is None
    fetched = [request for request in hub.requests if request.startswith("GET /storage")]
    assert [request.endswith("model.safetensors 200") for request in fetched] == [True]
    assert not any("tokenizer" in request for request in hub.requests)  # was complete


def test_a_transfer_that_stops_midway_goes_on_where_it_stopped(
    hub: StandInHub, client: Client, tmp_path: Path
) -> None:
    entry = model_entry(hub, "some/slow")
    hub.cuts["model.safetensors"] = Cut(2_000_000, times=1, reset=False)
    assert client.call(convert, entry, tmp_path / "model").line is None
    assert sum(request.startswith("GET /storage") for request in hub.requests) == 2
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (
        TINY / "target" / "model.safetensors"
    ).read_bytes()


def test_changed_files_are_refused(hub: StandInHub, client: Client, tmp_path: Path) -> None:
    """In the hub's cache and in a folder, large files and small ones."""
    files = {"a.parquet": b"large" * 99, "b.json": b"{}"}
    commit = hub.publish("datasets", "some/files", files)
    hub.publish("models", "some/files", files)
    places = {"dataset": None, "model": tmp_path}
    for kind, place in places.items():
        options = {"kind": kind, "folder": place}
        repository = hub.repositories[f"{kind}s", "some/files"]
        commit = repository.branches["main"]
        found = client.call(product.download, "some/files", commit, ["*"], **options).value
        for name in files:
            content = (found / name).read_bytes()
            (found / name).resolve().write_bytes(b"other")
            outcome = client.call(product.download, "some/files", commit, ["*"], **options)
            assert f"{name} is not the published file (expected" in (outcome.line or "")
            assert "\n" not in (outcome.line or "")
            (found / name).resolve().write_bytes(content)


def verified(models: dict[str, Any], cache: Path) -> list[str]:
    """What `proxykv check --family` prints of a family of two published models."""
    family = deepcopy(dict(catalog.families()["tiny"])) | {"family": "mine"} | models
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "families", lambda: {"mine": family})
        return list(verify("mine", cache))


def test_a_family_is_verified_without_its_weights(
    hub: StandInHub, client: Client, tmp_path: Path
) -> None:
    both = {role: model_entry(hub, f"some/{role}") for role in ("target", "proxy")}
    lines = client.call(verified, both, tmp_path)
    assert lines.line is None
    assert any("some/target: llama, shape: {layers: 4" in line for line in lines.value)
    assert "tokenizers: identical, 512 pieces" in lines.value
    assert not any("model.safetensors" in request for request in hub.requests)
    both["target"] = model_entry(hub, "some/gated", gated=True)
    refused = client.call(verified, both, tmp_path)
    assert "model some/gated at" in (refused.line or "")
    assert "gated, and there is no token" in (refused.line or "")
