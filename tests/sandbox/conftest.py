from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.sandbox.running import RunningSandbox, running_sandbox


@pytest.fixture(scope="session")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(
        tmp_path_factory.mktemp("sandbox"), "--later-seconds", "0.2", "--slow-seconds", "0.4", "--hold-seconds", "1"
    ) as started:
        yield started


@pytest.fixture
def sandbox(shared_sandbox: RunningSandbox) -> Iterator[RunningSandbox]:
    """A provider that behaves and honours keys. Its book is shared: look at your own references only."""
    yield shared_sandbox
    shared_sandbox.behave()
    shared_sandbox.set(honour_idempotency_keys=True, callback_url="", callbacks="late")


@pytest.fixture
def reference() -> str:
    return f"order-{uuid4().hex}"
