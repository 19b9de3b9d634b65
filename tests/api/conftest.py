"""A running installation whose own document is held against it, with a merchant who has something of everything."""

import asyncio
import json
import secrets
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from app.core.clock import now
from app.core.ids import typeid
from app.identity import actions as identity
from app.infra.db import open_pool
from outbox import dead_letters, store
from outbox.connection import connect
from outbox.model import Failed, NewRow
from tests.conftest import _cloned
from tests.flows.running import Merchant, System, new_merchant, running

# No worker takes this queue, so its letters stay what they are when they are replayed.
QUEUE = "nobodys"

Json = dict[str, Any]


class Installation(NamedTuple):
    system: System
    operator_key: str

    def document(self) -> Json:
        with urllib.request.urlopen(f"{self.system.url}/openapi.json", timeout=10) as answer:
            found: Json = json.load(answer)
            return found

    async def merchant(self, name: str) -> Merchant:
        """A new one for each test, so that none uses up what another needs."""
        return await new_merchant(self.system.database_url, f"{name} {secrets.token_hex(4)}")

    async def bury(self, count: int) -> list[str]:
        """As many new dead letters; their ids as the API has them."""
        async with await connect(self.system.database_url) as connection:
            rows = [NewRow(queue=QUEUE, lane="sandbox", actor="no.such.actor", payload='{"n":1}')] * count
            await store.write(connection, rows)
            claimed = await store.claim(connection, QUEUE, limit=count, lease_seconds=60.0)
            await store.fail(connection, [Failed(row, "UnknownActor: no.such.actor", None) for row in claimed])
            return [typeid("dl", letter.id) for letter in await dead_letters.list_(connection, queue=QUEUE)][:count]


@pytest.fixture(scope="session")
def installation(database_server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with _cloned(database_server, template) as database, running(database, tmp_path_factory.mktemp("system")) as system:
        yield Installation(system, asyncio.run(_operator_key(database)))


async def _operator_key(database: str) -> str:
    async with open_pool(database, role="tollgate_ops", size=1) as pool:
        return (await identity.create_key(pool, "operator", now=now())).token
