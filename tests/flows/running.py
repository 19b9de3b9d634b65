"""The whole system as `tollgate dev` starts it, each part a process of its own, over a database that nobody else uses."""

import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from app.core.clock import now
from app.core.ids import Id
from app.dev.home import Secrets
from app.dev.processes import Plan, specs
from app.identity import actions as identity
from app.infra.db import open_pool
from app.supervisor import Supervisor

PACKAGES = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
CALLBACK_SECRET = "the sandbox provider signs with this in tests"
# Two web processes, so that what has to hold between processes is asked of two.
WEBS = 2

# The sandbox's patience, shortened: nothing here depends on how long it is.
PATIENCE = {"slow_seconds": 1.5, "later_seconds": 0.3, "hold_seconds": 0.3}


class System(NamedTuple):
    url: str
    sandbox_url: str
    database_url: str

    def journal(self) -> list[dict[str, Any]]:
        """What the provider says it did: one effect a line."""
        with urllib.request.urlopen(f"{self.sandbox_url}/journal", timeout=10) as answer:
            return [json.loads(line) for line in answer.read().splitlines()]

    def strike(self, operation: str, kind: str, *, reference: str | None = None, times: int = 1, **members: Any) -> None:
        """Let the provider misbehave at its next `times` operations of a kind."""
        match = {"operation": operation} | ({} if reference is None else {"reference": reference})
        control(self.sandbox_url, "POST", "/_control/faults", {"match": match, "kind": kind, "times": times, **members})

    def faults(self) -> list[dict[str, Any]]:
        """Those that have not struck yet."""
        with urllib.request.urlopen(f"{self.sandbox_url}/_control/faults", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found

    def behave(self) -> None:
        control(self.sandbox_url, "DELETE", "/_control/faults")
        control(self.sandbox_url, "POST", "/_control/settings", PATIENCE)

    def be(self, **settings: Any) -> None:
        control(self.sandbox_url, "POST", "/_control/settings", settings)


class Merchant(NamedTuple):
    id: Id
    name: str
    secret: str
    live: str
    publishable: str


def control(url: str, method: str, path: str, body: object = None) -> None:
    sent = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data=sent, method=method), timeout=10) as answer:
        answer.read()


@contextmanager
def running(database_url: str, home: Path) -> Iterator[System]:
    """Sandbox, worker, clock and web processes; logs and the sandbox's book are kept in `home`."""
    (home / "logs").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening, socket.create_server(("127.0.0.1", 0)) as probe:
        secrets = Secrets("0" * 64, CALLBACK_SECRET, "sandbox_key_of_the_tests", sandbox_port=probe.getsockname()[1])
        probe.close()
        plan = Plan(home, database_url, secrets, listening.getsockname()[1], listening.fileno(), webs=WEBS, workers=1)
        supervisor = Supervisor(specs(plan), directory=PACKAGES, show=lambda _name, _line: None, on_change=lambda: None)
        try:
            supervisor.start(ready_within=START_SECONDS, give_up_after=1, stop=lambda: False)
            system = System(plan.url, plan.sandbox_url, database_url)
            system.behave()
            yield system
        finally:
            for kinds in (("web", "clock"), ("worker",), ("sandbox",)):
                supervisor.end(kinds, within=10.0)


async def new_merchant(database_url: str, name: str) -> Merchant:
    async with open_pool(database_url, role="tollgate_ops", size=1) as pool:
        merchant = await identity.create_merchant(pool, name=name, now=now())
        secret = await identity.create_key(pool, "secret", now=now(), merchant_id=merchant.id)
        live = await identity.create_key(pool, "secret", now=now(), merchant_id=merchant.id, livemode=True)
        publishable = await identity.create_key(pool, "publishable", now=now(), merchant_id=merchant.id)
    return Merchant(merchant.id, merchant.name, secret.token, live.token, publishable.token)
