"""The `datasets` client, by which lm-eval's own tasks read, meets the stand-in, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ruler_corpus
import scbench_corpus
from hub_client import Client
from stand_in_hub import OTHER_TOKEN, OWNERS_TOKEN, Cut, StandInHub

from proxykv.benchmarks.records import read_records

NOWHERE = "0" * 40
SOON = 15.0
"""Seconds on a very busy machine; the client's own retries would take 23."""


def load(name: str, **options: Any) -> list[dict[str, Any]]:
    """A data set's split `test`, as lm-eval loads it."""
    from datasets import load_dataset

    from proxykv.integrations.documents import reading

    with reading():
        return load_dataset(name, split="test", **options).to_list()


def test_datasets_reads_the_records_that_the_benchmarks_read(
    hub: StandInHub, client: Client, tmp_path: Path
) -> None:
    ruler_corpus.write_ready(tmp_path, ("vt", "cwe"))
    scbench_corpus.write_parquet(tmp_path)
    commit = hub.publish("datasets", "both/tables", tmp_path)
    for table in ("4096", "scbench_kv"):
        found = client.call(load, "both/tables", revision=commit, data_dir=table)
        assert found.line is None
        source = {"hub": "both/tables", "revision": commit}
        assert found.value == client.call(read_records, source, table).value


def test_what_datasets_cannot_have_is_one_line(
    hub: StandInHub, client: Client, tmp_path: Path
) -> None:
    ruler_corpus.write_ready(tmp_path, ("vt",))
    for name, access in (("gate", {"gated": True}), ("door", {"private": True}), ("files", {})):
        hub.publish("datasets", f"its/{name}", tmp_path, **access)
    hub.cuts["parquet"] = Cut(100, times=9, reset=True)
    other, owner = {"HF_TOKEN": OTHER_TOKEN}, {"HF_TOKEN": OWNERS_TOKEN}
    none = "doesn't exist on the Hub or cannot be accessed.; check the task's `dataset_path`"
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("its/nothing", {}, none),
        ("its/door", {}, none),
        ("its/files", {"revision": NOWHERE}, f"Revision '{NOWHERE}' doesn't exist"),
        ("its/gate", {}, "is a gated dataset on the Hub. You must be authenticated"),
        ("its/gate", {"env": other}, "is a gated dataset on the Hub."),
        ("its/files", {}, "Connection reset by peer"),
    ]
    for name, options, message in cases:
        outcome = client.call(load, name, **options)
        assert message in (outcome.line or ""), outcome
        assert "\n" not in (outcome.line or "")
    hub.cuts.clear()
    assert len(client.call(load, "its/gate", env=owner).value) == 2


def test_without_a_network_datasets_come_from_the_cache_or_one_line_comes_at_once(
    hub: StandInHub, client: Client, tmp_path: Path
) -> None:
    ruler_corpus.write_ready(tmp_path, ("vt",))
    for name in ("cached", "new"):
        hub.publish("datasets", f"off/{name}", tmp_path)
    records = client.call(load, "off/cached").value
    with hub.stopped():
        cached, new = (client.call(load, f"off/{name}") for name in ("cached", "new"))
    assert cached.value == records
    assert new.line == (
        "Couldn't reach 'off/new' on the Hub (LocalEntryNotFoundError); "
        "check the network and HF_ENDPOINT"
    )
    for outcome in (cached, new):
        assert outcome.seconds < SOON, outcome
