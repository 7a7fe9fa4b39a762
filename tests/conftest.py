"""One thread, fixed seeds, no network, and every shape annotation of fewstep checked while the tests run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_socket
import torch
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
# before anything imports fewstep; an int is a float here, as it is for every other type checker
install_import_hook("fewstep", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# A shell hands signals that it ignores (nohup, a job in the background) on to whatever it starts, and fewstep heeds that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _quiet_machine() -> None:
    """The same machine for every test, whatever ran before it; nothing outside it can be reached."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pytest_socket.socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real ``fewstep serve`` in a process of its own, started by the first test that talks to it."""
    from serving_helpers import process

    with process(tmp_path_factory.mktemp("served")) as running:
        yield running
