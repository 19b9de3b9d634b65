"""`tollgate dead-letters`, `tollgate ledger` and `tollgate keys`: what an operator does from a shell, by the API's own actions."""

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec

from app.core.clock import now, rfc3339
from app.core.errors import NotFound
from app.core.ids import parse_typeid, typeid
from app.identity import actions as identity
from app.infra.db import Pool, open_pool
from app.ledger.balance import TrialBalance, trial_balance
from app.operators import actions
from app.operators.actions import Operator
from app.settings import read_direct_url
from outbox.dead_letters import DeadLetter
from outbox.wake import Waker
from sql.migrate import check_current


@asynccontextmanager
async def _operating(environ: dict[str, str]) -> AsyncIterator[Pool]:
    async with open_pool(read_direct_url(environ), role="tollgate_ops", size=1) as pool:
        async with pool.connection() as connection:
            await check_current(connection)
        yield pool


def _me() -> Operator:
    try:
        return Operator(name=f"cli:{getpass.getuser()}")
    except (KeyError, OSError):
        # A container's user may have no name.
        return Operator(name="cli")


# --- dead letters -------------------------------------------------------------------------------------------------------------


async def list_letters(environ: dict[str, str], *, queue: str | None, closed: bool, limit: int, as_json: bool) -> list[str]:
    """Newest first."""
    async with _operating(environ) as pool, pool.connection() as connection:
        letters, has_more = await actions.list_letters(connection, queue=queue, since=None, before=None, limit=limit, closed=closed)
    if as_json:
        return [msgspec.json.encode(_members(letter)).decode() for letter in letters]
    if not letters:
        return ["no dead letters"]
    lines = [
        f"{typeid('dl', letter.id)}  {rfc3339(letter.dead_at)[:19]}Z  {letter.actor:<20} {_short(letter.last_error)}" for letter in letters
    ]
    return [*lines, f"there are more: --limit {limit * 2}"] if has_more else lines


async def show_letter(environ: dict[str, str], id_: str) -> list[str]:
    async with _operating(environ) as pool, pool.connection() as connection:
        letter = await actions.show(connection, _letter_id(id_))
    width = max(map(len, _members(letter)))
    return [f"{name:<{width}}  {'-' if value is None else value}" for name, value in _members(letter).items()]


async def replay_letter(environ: dict[str, str], id_: str, *, reason: str) -> list[str]:
    """A second time changes nothing and says so."""
    async with _operating(environ) as pool:
        letter, done = await actions.replay(pool, _letter_id(id_), operator=_me(), reason=reason, now=now())
        if done:
            async with Waker(read_direct_url(environ)) as waker:
                waker.wake(letter.queue)
    return [f"{id_} is back in the queue {letter.queue}" if done else f"{id_} was replayed before: nothing done"]


async def discard_letter(environ: dict[str, str], id_: str, *, reason: str) -> list[str]:
    async with _operating(environ) as pool:
        _, done = await actions.discard(pool, _letter_id(id_), operator=_me(), reason=reason, now=now())
    return [f"{id_} is discarded" if done else f"{id_} was discarded before: nothing done"]


def _letter_id(text: str) -> str:
    try:
        return parse_typeid("dl", text)
    except ValueError:
        raise NotFound(f"{text} is not the id of a dead letter: `tollgate dead-letters list` prints them.") from None


def _members(letter: DeadLetter) -> dict[str, Any]:
    members = {name: getattr(letter, name) for name in DeadLetter.__dataclass_fields__}
    shown = {name: rfc3339(value) if isinstance(value, datetime) else value for name, value in members.items()}
    return {**shown, "id": typeid("dl", letter.id)}


def _short(error: str) -> str:
    first = error.strip().split("\n", 1)[0]
    return first if len(first) <= 80 else f"{first[:79]}…"


# --- the books ----------------------------------------------------------------------------------------------------------------


async def show_trial_balance(environ: dict[str, str], *, as_json: bool) -> tuple[list[str], bool]:
    """The lines to show, and whether debits equal credits in every currency."""
    async with _operating(environ) as pool, pool.connection() as connection:
        found = await trial_balance(connection)
    return ([msgspec.json.encode(found).decode()] if as_json else balance_table(found)), found.balanced


def balance_table(found: TrialBalance) -> list[str]:
    """Amounts are minor units, as everywhere."""
    lines = []
    for currency, one in sorted(found.currencies.items()):
        lines.append(f"{currency:<32}{'debits':>18}{'credits':>18}{'balance':>18}")
        lines += [f"  {name:<30}{row.debits:>18}{row.credits:>18}{row.balance:>18}" for name, row in sorted(one.accounts.items())]
        lines += [f"  {'total':<30}{one.debits:>18}{one.credits:>18}", ""]
    return [*lines, "balanced: debits equal credits" if found.balanced else "NOT BALANCED"]


# --- keys ---------------------------------------------------------------------------------------------------------------------


async def create_key(
    environ: dict[str, str], *, operator: bool, merchant: str | None, new_merchant: str | None, live: bool
) -> dict[str, str]:
    """The token is in the answer and nowhere else."""
    async with _operating(environ) as pool:
        if operator:
            return {"key": (await identity.create_key(pool, "operator", now=now())).token}
        if new_merchant is not None:
            merchant_id = (await identity.create_merchant(pool, name=new_merchant, now=now())).id
        else:
            merchant_id = await _merchant_id(pool, merchant or "")
        key = await identity.create_key(pool, "secret", now=now(), merchant_id=merchant_id, livemode=live)
        return {"key": key.token, "merchant_id": typeid("mer", merchant_id)}


async def _merchant_id(pool: Pool, text: str) -> str:
    try:
        id_ = parse_typeid("mer", text)
    except ValueError:
        raise NotFound(f"{text} is not the id of a merchant, which begins with mer_.") from None
    async with pool.connection() as connection:
        if await (await connection.execute("SELECT FROM merchants WHERE id = %s", (id_,))).fetchone() is None:
            raise NotFound(f"There is no merchant {text}.")
    return id_
