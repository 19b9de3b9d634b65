"""A row that nobody can do becomes a dead letter with its reason, and comes back once the cause is gone, however often it is asked for."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from tests.faults.stage import SHORT, Stage, shopping, staged
from tests.flows.books import assert_books_agree, rows
from tests.flows.running import PACKAGES, System
from tests.flows.shop import Json, Shop, eventually
from tests.webhooks.receiver import Receiver
from tests.webhooks.receiver import running as receiving

pytestmark = pytest.mark.xdist_group("processes")

# The worker of a release that has one provider more, which speaks like the sandbox.
NEXT_RELEASE = """
import os, sys
from app.providers.registry import Registry
from app.providers.sandbox import SandboxAdapter
from app.settings import read_settings
from workers import main, psp

def configured(settings):
    adapter = SandboxAdapter(url=settings.sandbox_url, key=settings.sandbox_key, callback_secret=settings.sandbox_callback_secret)
    return Registry({"acme": adapter, "sandbox": adapter}, (), test_tokens=frozenset())

psp.configured = configured
sys.exit(main.run(read_settings(os.environ)))
"""


class Scene(NamedTuple):
    stage: Stage
    shop: Shop
    receiver: Receiver


@pytest.fixture
async def scene(database: str, tmp_path: Path) -> AsyncIterator[Scene]:
    with staged(database, tmp_path / "stage") as stage:
        async with receiving() as receiver, shopping(stage.system) as shop:
            await stage.start("sandbox", "web-1")
            yield Scene(stage, shop, receiver)


def tollgate(system: System, *arguments: str) -> str:
    """What the command prints; it has to end well."""
    environ = {**os.environ, "DATABASE_URL": system.database_url, "ENVIRONMENT": "test"}
    done = subprocess.run([sys.executable, "-m", "app", *arguments], cwd=PACKAGES, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def as_owner(system: System, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(system.database_url, autocommit=True) as connection:
        await connection.execute(statement.encode())


async def backoff_is_over(system: System, *, vanished: int = 0) -> None:
    """Of rows that failed and wait; one that is leased just now has a claim more than has come back or vanished."""
    await as_owner(
        system, f"UPDATE outbox SET due_at = statement_timestamp() WHERE failures > 0 AND attempt = failures + returned + {vanished}"
    )


async def the_letter(system: System) -> Json:
    """The one dead letter, as soon as there is one; meanwhile each backoff is over before it has begun."""

    async def look() -> Json | None:
        await backoff_is_over(system)
        lines = await rows(system, "SELECT 1 FROM dead_letters")
        return json.loads(tollgate(system, "dead-letters", "list", "--json")) if lines else None

    return await eventually(look, what="a dead letter", within_seconds=60)


async def replay_twice(system: System, letter: Json) -> tuple[str, str]:
    """By two operators at the same moment."""
    replay = ("dead-letters", "replay", letter["id"], "--reason", "its cause is gone")
    first, second = await asyncio.gather(*(asyncio.to_thread(tollgate, system, *replay) for _ in range(2)))
    return first, second


async def nothing_left(system: System) -> bool | None:
    return True if await rows(system, "SELECT 1 FROM outbox") == [] else None


async def test_a_webhook_that_cannot_be_worked_on_is_delivered_once_its_cause_is_gone(scene: Scene) -> None:
    """A right that a migration took away: the letter says so, the payment is not touched, and two replays deliver one time."""
    system = scene.stage.system
    endpoint = {"url": f"{scene.receiver.url}/hook", "enabled_events": ["payment.captured"]}
    assert (await scene.shop.post("/v1/webhook_endpoints", endpoint)).status == 201
    await as_owner(system, "REVOKE SELECT ON webhook_endpoint_health FROM tollgate_writer")
    await scene.stage.start("worker-1")
    payment = await scene.shop.pay()

    letter = await the_letter(system)
    received_before = scene.receiver.got("/hook")
    await as_owner(system, "GRANT SELECT ON webhook_endpoint_health TO tollgate_writer")
    said = await replay_twice(system, letter)
    late = tollgate(system, "dead-letters", "replay", letter["id"], "--reason", "once more")
    await eventually(lambda: nothing_left(system), what="an empty outbox")

    assert (letter["queue"], letter["actor"], payment["status"]) == ("webhooks", "webhook.deliver", "captured")
    assert "permission denied" in letter["last_error"]
    assert sorted("nothing done" in line for line in (*said, late)) == [False, True, True]
    assert received_before == []
    assert [json.loads(one["body"])["type"] for one in scene.receiver.got("/hook")] == ["payment.captured"]
    assert tollgate(system, "dead-letters", "list") == "no dead letters\n"


async def test_a_payment_at_an_unknown_provider_is_charged_once_the_provider_is_known(scene: Scene) -> None:
    """Nothing was sent, so it may be a dead letter; two replays under the release that knows the provider charge one time."""
    system = scene.stage.system
    intent = await scene.shop.intent()
    await scene.shop.confirm(intent, key="poisoned", prefer="respond-async")
    await as_owner(system, """UPDATE outbox SET payload = replace(payload, '"provider":"sandbox"', '"provider":"acme"')""")
    await scene.stage.start("worker-1")

    letter = await the_letter(system)
    journal_before = system.journal()
    scene.stage.signal("worker-1", signal.SIGKILL)
    await scene.stage.start("worker-2", program=NEXT_RELEASE)
    said = await replay_twice(system, letter)
    paid = await scene.shop.confirm(intent, key="poisoned")
    late = tollgate(system, "dead-letters", "replay", letter["id"], "--reason", "once more")
    await eventually(lambda: nothing_left(system), what="an empty outbox")

    assert (letter["queue"], letter["actor"]) == ("psp", "psp.send")
    assert ("UnknownProvider" in letter["last_error"], "acme" in letter["last_error"]) == (True, True)
    assert sorted("nothing done" in line for line in (*said, late)) == [False, True, True]
    assert (paid.status, paid.json["status"]) == (200, "succeeded")
    assert (journal_before, [line["kind"] for line in system.journal()]) == ([], ["sale"])
    await assert_books_agree(system, scene.shop.merchant.id)


async def test_what_may_have_been_sent_is_never_a_dead_letter(scene: Scene) -> None:
    """Charged by a worker that died, then claimed by one that does not know the provider: unknown, until somebody can ask."""
    system = scene.stage.system
    intent = await scene.shop.intent()
    await scene.shop.confirm(intent, key="half-sent", prefer="respond-async")
    await as_owner(system, """UPDATE outbox SET payload = replace(payload, '"provider":"sandbox"', '"provider":"acme"')""")
    await as_owner(system, "UPDATE operations SET provider = 'acme'")
    system.strike("sale", "no_answer_after_effect", delay_ms=30_000)
    await scene.stage.start("worker-2", program=NEXT_RELEASE, **SHORT)
    await eventually(lambda: charged(system), what="a charge")
    scene.stage.signal("worker-2", signal.SIGKILL)

    await scene.stage.start("worker-1", **SHORT)
    await eventually(lambda: given_up(system), what="an unknown operation", within_seconds=60)
    scene.stage.signal("worker-1", signal.SIGKILL)
    await scene.stage.start("worker-2", program=NEXT_RELEASE, **SHORT)
    await scene.stage.start("clock", **SHORT)
    paid = await scene.shop.confirm(intent, key="half-sent", prefer="wait=20")

    assert await rows(system, "SELECT 1 FROM dead_letters") == []
    assert (paid.status, paid.json["status"]) == (200, "succeeded")
    assert [line["kind"] for line in system.journal()] == ["sale"]
    await assert_books_agree(system, scene.shop.merchant.id)


async def charged(system: System) -> bool | None:
    return True if system.journal() else None


async def given_up(system: System) -> bool | None:
    """Whether the row is gone from the outbox, one way or the other; its lease and its backoffs are over before they have begun."""
    await backoff_is_over(system, vanished=1)
    return await nothing_left(system)
