"""The stand-in hub, and a client process; `pytest -rP tests/hub` prints what they exchange."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from hub_client import Client, ready
from stand_in_hub import StandInHub


@pytest.fixture(scope="session")
def server() -> Iterator[StandInHub]:
    """One server for all tests."""
    hub = StandInHub()
    yield hub
    hub.stop()


@pytest.fixture
def hub(server: StandInHub, request: pytest.FixtureRequest) -> Iterator[StandInHub]:
    """The server, with no record of earlier requests. Each test has its own repositories."""
    for record in (server.requests, server.cuts, server.transcript):
        record.clear()
    yield server
    request.node.add_report_section("teardown", "hub", "\n".join(server.transcript))


@pytest.fixture(scope="session")
def client(server: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The other process; it reads `HF_ENDPOINT` when it imports, as users' processes do."""
    home = tmp_path_factory.mktemp("hf_home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            patch.delenv(name)
        patch.setenv("HF_ENDPOINT", server.endpoint)
        patch.setenv("HF_HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        patch.setenv("HF_HUB_DISABLE_XET", "1")  # the stand-in has the storage of Git LFS
        patch.setenv("NO_PROXY", "*")
        with ProcessPoolExecutor(1, get_context("spawn"), ready) as pool:
            pool.submit(os.getpid).result()  # starts it
            yield Client(pool, server.transcript)
