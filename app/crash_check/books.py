"""What everybody wrote down: the provider's journal, our database, the merchant's server, and what the API says now."""

import asyncio
import base64
import hmac
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from app.core.ids import typeid
from app.infra.db import Connection, connect
from app.ledger.balance import trial_balance, wallet_differences

# Read at once from the API: enough to be quick, few enough for a small machine.
_READERS = 16

# Nothing of this is left when everything has been done.
_LEFT = {
    "operations still open": "SELECT count(*) FROM operations WHERE closed_at IS NULL",
    "rows in the outbox": "SELECT count(*) FROM outbox",
    "deliveries not delivered": "SELECT count(*) FROM webhook_deliveries WHERE status <> 'delivered'",
}

_OPERATIONS = "SELECT id, payment_id, type, status FROM operations"
# A fact of the ledger that moved money through the provider, under the operation that made it.
_POSTED = """
SELECT t.reference_id, t.type, e.currency, e.amount
  FROM ledger_transactions t
  JOIN ledger_entries e ON e.transaction_id = t.transaction_id
 WHERE e.account_id = 'customer_payment_clearing'"""
_ANNOUNCED = """
SELECT id, object_type || '.' || event, sequence, payment_id
  FROM events
 WHERE announced AND object_type IN ('payment_intent', 'payment', 'refund')"""
_HELD = """
SELECT coalesce(sum(CASE direction WHEN 'debit' THEN amount ELSE -amount END), 0)::bigint
  FROM ledger_entries
 WHERE account_id = 'authorization_holds'"""


class Effect(NamedTuple):
    """A line of the provider's journal; `reference` is our operation's id."""

    kind: str
    reference: str
    amount: int
    currency: str


class Posted(NamedTuple):
    """`kind`: capture, refund, or whatever else moved money."""

    reference: str
    kind: str
    currency: str
    amount: int


class Operation(NamedTuple):
    payment_id: str
    kind: str
    status: str


class Announced(NamedTuple):
    type: str
    sequence: int
    payment_id: str | None


class Received(NamedTuple):
    """A delivery as the merchant's server got it. `verified`: the signature fits the bytes."""

    event_id: str
    type: str
    sequence: int
    verified: bool
    answered: int


class Ours(NamedTuple):
    """Our database. Ids are those of the API."""

    operations: dict[str, Operation]
    posted: list[Posted]
    announced: dict[str, Announced]
    held: int
    exceptions: int
    dead_letters: list[str]
    unbalanced: bool
    wallets_that_differ: int


class Shown(NamedTuple):
    """What the API says now of one journey; `payments` and `refunds` in the order of their creation."""

    intent: dict[str, Any]
    payments: list[dict[str, Any]]
    refunds: list[dict[str, Any]]


async def left(database_url: str) -> dict[str, int]:
    """What is not done yet, by name."""
    async with await connect(database_url, role="tollgate_ops") as connection:
        return {name: count for name, query in _LEFT.items() if (count := await _number(connection, query))}


async def read_ours(database_url: str) -> Ours:
    async with await connect(database_url, role="tollgate_ops") as connection:
        return Ours(
            operations={
                typeid("op", id_): Operation(typeid("pay", payment), kind, status)
                for id_, payment, kind, status in await _rows(connection, _OPERATIONS)
            },
            posted=[Posted(typeid("op", reference), *rest) for reference, *rest in await _rows(connection, _POSTED)],
            announced={
                typeid("evt", id_): Announced(type_, sequence, typeid("pay", payment) if payment else None)
                for id_, type_, sequence, payment in await _rows(connection, _ANNOUNCED)
            },
            held=await _number(connection, _HELD),
            exceptions=await _number(connection, "SELECT count(*) FROM exceptions"),
            dead_letters=[row[0] for row in await _rows(connection, "SELECT actor || ': ' || last_error FROM dead_letters")],
            unbalanced=not (await trial_balance(connection)).balanced,
            wallets_that_differ=len(await wallet_differences(connection)),
        )


async def read_journal(session: aiohttp.ClientSession, sandbox_url: str) -> list[Effect]:
    async with session.get(f"{sandbox_url}/journal") as answer:
        lines = [json.loads(line) for line in (await answer.read()).splitlines()]
    return [Effect(line["kind"], line["reference"], line["amount"], line["currency"]) for line in lines]


def read_received(journal: Path, *, secret: str) -> list[Received]:
    return [_received(json.loads(line), secret) for line in journal.read_text(encoding="utf-8").splitlines()]


async def read_shown(session: aiohttp.ClientSession, url: str, intents: Iterable[tuple[int, str]]) -> dict[int, Shown]:
    """By journey, of (journey, intent id)."""
    at_once = asyncio.Semaphore(_READERS)

    async def get(path: str) -> dict[str, Any]:
        async with at_once, session.get(url + path) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
            return found

    async def one(number: int, intent_id: str) -> tuple[int, Shown]:
        intent = await get(f"/v1/payment_intents/{intent_id}")
        listed = await get(f"/v1/payments?reference={intent['reference']}&limit=100")
        payments = list(reversed(listed["data"]))
        refunds = [await get(f"/v1/refunds?payment_id={payment['id']}&limit=100") for payment in payments]
        return number, Shown(intent, payments, [refund for page in refunds for refund in reversed(page["data"])])

    return dict(await asyncio.gather(*(one(number, intent_id) for number, intent_id in intents)))


def _received(line: dict[str, Any], secret: str) -> Received:
    headers, body = line["headers"], line["body"]
    said = json.loads(body)
    return Received(
        event_id=headers.get("webhook-id", ""),
        type=said["type"],
        sequence=said["sequence"],
        verified=said["id"] == headers.get("webhook-id") and _fits(headers, body, secret),
        answered=line["answered"],
    )


def _fits(headers: dict[str, str], body: str, secret: str) -> bool:
    """By Standard Webhooks 1.0, written a second time here: the code that signs must not be the code that verifies."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers.get('webhook-id')}.{headers.get('webhook-timestamp')}.{body}".encode()
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    given = [one.removeprefix("v1,") for one in headers.get("webhook-signature", "").split()]
    return any(hmac.compare_digest(one, expected) for one in given)


async def _rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query.encode())).fetchall()


async def _number(connection: Connection, query: str) -> int:
    return int((await _rows(connection, query))[0][0])
