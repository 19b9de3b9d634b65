"""A merchant's server: requests with its key, and the few steps that most flows begin with."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import aiohttp
import psycopg

from tests.flows.running import Merchant, System

Json = dict[str, Any]
T = TypeVar("T")


class Reply(NamedTuple):
    """Header names in lower case."""

    status: int
    json: Json
    headers: dict[str, str]


class Shop:
    def __init__(self, system: System, merchant: Merchant, session: aiohttp.ClientSession) -> None:
        self.system = system
        self.merchant = merchant
        self.session = session

    async def ask(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        key: str | None = None,
        prefer: str | None = None,
        if_match: str | None = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        given = {"Idempotency-Key": key, "Prefer": prefer, "If-Match": if_match}
        sent = {name: value for name, value in given.items() if value is not None} | (headers or {})
        sent["Authorization"] = f"Bearer {self.merchant.secret if token is None else token}"
        async with self.session.request(method, self.system.url + path, json=body, headers=sent) as response:
            shown = await response.json(content_type=None) if response.content_length else {}
            return Reply(response.status, shown, {name.lower(): value for name, value in response.headers.items()})

    async def post(self, path: str, body: Json | None = None, **how: Any) -> Reply:
        return await self.ask("POST", path, {} if body is None else body, **how)

    async def get(self, path: str, **how: Any) -> Reply:
        return await self.ask("GET", path, **how)

    async def read(self, path: str) -> Json:
        """The object at `path`, which has to be there."""
        reply = await self.get(path)
        assert reply.status == 200, reply
        return reply.json

    async def intent(self, card: str | None = "approved", *, amount: int = 10000, currency: str = "EUR", **members: Any) -> Json:
        """A new payment intent; `card` None leaves the method for later."""
        body = {"amount": amount, "currency": currency, **members} | ({} if card is None else {"payment_method": method(card)})
        reply = await self.post("/v1/payment_intents", body)
        assert reply.status == 201, reply
        return reply.json

    async def confirm(self, intent: Json, body: Json | None = None, **how: Any) -> Reply:
        return await self.post(f"/v1/payment_intents/{intent['id']}/confirm", body, **how)

    async def pay(self, card: str = "approved", **members: Any) -> Json:
        """The payment of a confirmed intent, as it is now."""
        intent = await self.intent(card, **members)
        reply = await self.confirm(intent)
        assert reply.status == 200, reply
        return await self.read(f"/v1/payments/{reply.json['payment_id']}")

    async def authorize(self, card: str = "approved", **members: Any) -> Json:
        return await self.pay(card, capture_method="manual", **members)

    async def capture(self, payment: Json, amount: int | None = None, **how: Any) -> Reply:
        return await self.post(f"/v1/payments/{payment['id']}/capture", wanted(amount), **how)

    async def void(self, payment: Json, **how: Any) -> Reply:
        return await self.post(f"/v1/payments/{payment['id']}/void", **how)

    async def refund(self, payment: Json, amount: int | None = None, **how: Any) -> Reply:
        return await self.post(f"/v1/payments/{payment['id']}/refunds", wanted(amount), **how)

    async def cancel(self, intent: Json, **how: Any) -> Reply:
        return await self.post(f"/v1/payment_intents/{intent['id']}/cancel", **how)

    async def payment(self, payment: Json) -> Json:
        return await self.read(f"/v1/payments/{payment['id']}")

    async def payment_of(self, intent: Json) -> Json:
        latest = (await self.read(f"/v1/payment_intents/{intent['id']}"))["latest_payment"]
        return await self.read(f"/v1/payments/{latest}")

    async def until(self, path: str, **wanted_members: Any) -> Json:
        """The object at `path` as soon as its members are those."""

        async def look() -> Json | None:
            shown = await self.read(path)
            return shown if wanted_members.items() <= shown.items() else None

        return await eventually(look, what=f"{path} with {wanted_members}")

    async def until_intent(self, intent: Json, **members: Any) -> Json:
        return await self.until(f"/v1/payment_intents/{intent['id']}", **members)

    async def until_payment(self, payment: Json, **members: Any) -> Json:
        return await self.until(f"/v1/payments/{payment['id']}", **members)

    async def events(self, object_: Json) -> list[str]:
        """The types of what the merchant was told about the object, in order."""
        await self._until_everything_is_shown()
        page = await self.read(f"/v1/events?limit=100&object_id={object_['id']}")
        return [one["type"] for one in page["data"]]

    async def _until_everything_is_shown(self) -> None:
        """The feed ends before the oldest transaction of the server, also where that is another test's."""

        async def shown() -> bool | None:
            async with await psycopg.AsyncConnection.connect(self.system.database_url, autocommit=True) as connection:
                cursor = await connection.execute(
                    "SELECT count(*) FROM events WHERE transaction_id >= pg_snapshot_xmin(pg_current_snapshot())"
                )
                return await cursor.fetchone() == (0,) or None

        await eventually(shown, what="a feed that shows everything")


def method(card: str) -> Json:
    return {"type": "card", "token": f"tok_sandbox_{card}"}


def wanted(amount: int | None) -> Json:
    return {} if amount is None else {"amount": amount}


async def eventually(look: Callable[[], Awaitable[T | None]], *, what: str, within_seconds: float = 20.0) -> T:
    """What `look` gives as soon as it gives something."""
    deadline = time.monotonic() + within_seconds
    while True:
        found = await look()
        if found is not None:
            return found
        assert time.monotonic() < deadline, f"it did not come to {what}"
        await asyncio.sleep(0.03)
