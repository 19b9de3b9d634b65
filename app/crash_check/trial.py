"""The trial itself: clients ask while the nemesis kills; then everything heals, every request is repeated, and the books are read."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import aiohttp

from app.crash_check import books
from app.crash_check.checks import Evidence, compare, totals
from app.crash_check.clients import LONGEST_PATIENCE_SECONDS, Clients, Told
from app.crash_check.installation import Installation, Times
from app.crash_check.nemesis import Nemesis
from app.crash_check.plan import Journey
from app.crash_check.report import Run, payments_in_question

# Source: the promise that this command checks: all is done within 120 s of the last kill.
HEAL_SECONDS = 120.0
_LOOK_SECONDS = 0.25
# Repeats at the end meet processes that nobody kills any more.
_REPEATERS = 16


class Trial(NamedTuple):
    """`timelines` of the payments that something is wrong with."""

    run: Run
    evidence: Evidence
    timelines: dict[str, list[dict[str, Any]]]


async def hold(installation: Installation, planned: Sequence[Journey], *, seed: int, times: Times, show: Callable[[str], None]) -> Trial:
    """`show` is told of every kill."""
    headers = {"Authorization": f"Bearer {installation.secret_key}"}
    connector = aiohttp.TCPConnector(limit=0)
    with installation.answers.open("a", encoding="utf-8") as journal:
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session, aiohttp.ClientSession() as control:
            secret = await _subscribe(session, installation)
            clients = Clients(session, installation.url, run=f"check-{seed}", journal=journal)
            nemesis = Nemesis(installation.supervisor, seed=seed, show=show)
            begun_at = time.monotonic()
            left = await _pay_and_kill(installation, clients, nemesis, control, planned)
            healed_at = time.monotonic()
            repeated = await _repeat(clients)
            await _done(installation, within=HEAL_SECONDS)
            evidence = Evidence(
                journeys=planned,
                told=clients.told,
                refused=clients.refused,
                repeated=repeated,
                left=left,
                journal=await books.read_journal(control, installation.sandbox_url),
                ours=await books.read_ours(installation.database_url),
                received=books.read_received(installation.deliveries, secret=secret),
                shown=await books.read_shown(session, installation.url, _intents(clients.told)),
            )
            timelines = {
                payment_id: (await clients.read(f"/v1/payments/{payment_id}/timeline"))["data"]
                for payment_id in payments_in_question(compare(evidence))
            }
    run = Run(
        seed=seed,
        times=times,
        payments=len(planned),
        requests=clients.requests,
        unanswered=clients.unanswered,
        faults=nemesis.faults,
        kills=nemesis.kills,
        under_way_seconds=nemesis.last_kill_at - begun_at,
        healed_seconds=healed_at - nemesis.last_kill_at,
        totals=totals(evidence),
    )
    return Trial(run, evidence, timelines)


async def _pay_and_kill(
    installation: Installation, clients: Clients, nemesis: Nemesis, control: aiohttp.ClientSession, planned: Sequence[Journey]
) -> dict[str, int]:
    """Returns what was not done when the time to heal was over."""
    walking = [asyncio.create_task(clients.walk(journey)) for journey in planned]

    def under_way() -> bool:
        return clients.begun < len(planned)

    await asyncio.gather(nemesis.kill(under_way), nemesis.strike(control, installation.sandbox_url, under_way))
    heal_until = nemesis.last_kill_at + HEAL_SECONDS
    _, late = await asyncio.wait(walking, timeout=max(0.0, heal_until - time.monotonic()))
    for task in late:
        task.cancel()
    for ended in await asyncio.gather(*walking, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
    return await _done(installation, within=heal_until - time.monotonic())


async def _done(installation: Installation, *, within: float) -> dict[str, int]:
    """What is left when nothing is, or when the time is over."""
    until = time.monotonic() + within
    while True:
        left = await books.left(installation.database_url)
        if not left or time.monotonic() > until:
            return left
        await asyncio.sleep(_LOOK_SECONDS)


async def _repeat(clients: Clients) -> dict[str, tuple[int, dict[str, Any]]]:
    """Every request that was answered, once more under its key."""
    at_once = asyncio.Semaphore(_REPEATERS)

    async def one(told: Told) -> tuple[str, tuple[int, dict[str, Any]]]:
        async with at_once:
            answered = await clients.send(told.path, told.body, key=told.key, patience_seconds=LONGEST_PATIENCE_SECONDS)
        return told.key, answered or (0, {})

    return dict(await asyncio.gather(*(one(told) for told in clients.told)))


async def _subscribe(session: aiohttp.ClientSession, installation: Installation) -> str:
    """The secret that deliveries are signed with."""
    async with session.post(
        f"{installation.url}/v1/webhook_endpoints", json={"url": installation.hook_url, "enabled_events": ["*"]}
    ) as answer:
        answer.raise_for_status()
        return str((await answer.json())["secret"])


def _intents(told: Sequence[Told]) -> list[tuple[int, str]]:
    return [(one.journey, _intent_id(one)) for one in told if one.step == "create"]


def _intent_id(told: Told) -> str:
    intent = told.answer.get("payment_intent") or told.answer
    return str(intent["id"])
