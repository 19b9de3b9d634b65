"""The web process on a real socket, with routes of its own beside the real ones, so that this layer is tested before anything stands on it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, NamedTuple

import aiohttp
import msgspec
import pytest
import uvicorn

from app import main
from app.core.clock import now
from app.core.ids import Id
from app.http import (
    Amount,
    Answer,
    Body,
    Call,
    Currency,
    Metadata,
    Query,
    Reference,
    Resources,
    Route,
    answer,
    answer_list,
    choice,
    errors_page,
    health,
    ident,
    instants,
    list_of,
    text,
)
from app.http.server import ProblemProtocol
from app.identity import actions
from app.infra.db import open_pool
from app.operators import api as operators
from app.settings import Settings, read_settings


class Card(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    token: str


class CreateEcho(Body):
    amount: Amount
    currency: Currency
    capture_method: Literal["automatic", "manual"] = "automatic"
    reference: Reference | None = None
    metadata: Metadata | None = None
    payment_method: Card | str | None = None
    rate: float | None = None
    tags: Annotated[list[str], msgspec.Meta(max_length=3)] | None = None


class Echo(msgspec.Struct):
    id: str
    amount: int


async def create_echo(call: Call[CreateEcho]) -> Answer:
    """What arrived, as it was understood"""
    return answer(201, {"body": call.body, "key": call.idempotency_key, "fingerprint": call.fingerprint.hex()}, etag=1)


async def list_echoes(call: Call[None]) -> Answer:
    """The page that was asked for"""
    page = call.page
    seen = {"limit": page.limit, "after": page.starting_after, "before": page.ending_before, "filters": dict(page.filters)}
    return answer_list(call.path, [seen, b'{"raw":true}'], has_more=True)


async def capture_echo(call: Call[Body]) -> Answer:
    """Everything that a waiting route reads from its headers"""
    call.require_version(3)
    if_match = None if call.if_match is None else sorted(call.if_match)
    return answer(200, {"id": call.ids["payment_id"], "wait": call.wait_seconds, "if_match": if_match}, etag=3)


async def break_down(_call: Call[None]) -> Answer:
    """Fails as no route should"""
    raise RuntimeError("planted 4242424242424242")


async def receive_callback(call: Call[None]) -> Answer:
    """The raw bytes of somebody else's event"""
    return answer(200, {"size": len(call.raw_body), "name": call.ids["name"]})


ECHOES = Query(
    (text("reference"), choice("status", ("captured", "failed")), ident("customer_id", "cus"), *instants("created_at")), pages="pay"
)
ROUTES = (
    Route("POST", "/v1/echoes", create_echo, body=CreateEcho, answers={201: Echo}),
    Route("GET", "/v1/echoes", list_echoes, query=ECHOES, answers={200: list_of(Echo)}),
    Route("POST", "/v1/echoes/{payment_id:pay}/capture", capture_echo, waits=True, conditional=True, answers={200: Echo}),
    Route("GET", "/v1/breakdown", break_down, answers={200: Echo}),
    Route("POST", "/v1/providers/{name}/events", receive_callback, access="nobody", answers={200: Echo}),
)


# What this layer brings along by itself.
LAYER = (*health.ROUTES, *errors_page.ROUTES, *operators.ROUTES)


class Keys(NamedTuple):
    merchant_id: Id
    secret: str
    live: str
    publishable: str
    operator: str


class Web(NamedTuple):
    url: str
    port: int
    keys: Keys
    resources: Resources
    session: aiohttp.ClientSession

    async def ask(
        self, method: str, path: str, body: bytes | None = None, *, token: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any], Any]:
        """Status, lower-case headers, decoded JSON; with the secret key unless another is named, "" for none."""
        sent = {"Content-Type": "application/json"} if body is not None else {}
        bearer = self.keys.secret if token is None else token
        if bearer:
            sent["Authorization"] = f"Bearer {bearer}"
        async with self.session.request(method, f"{self.url}{path}", data=body, headers={**sent, **(headers or {})}) as response:
            raw = await response.read()
            kind = response.headers.get("Content-Type", "")
            return (
                response.status,
                {k.lower(): v for k, v in response.headers.items()},
                msgspec.json.decode(raw) if "json" in kind and raw else raw,
            )


def settings_for(database: str, **other: Any) -> Settings:
    settings = read_settings({"ENVIRONMENT": "test", "DATABASE_URL": "postgresql://elsewhere/x"})
    return msgspec.structs.replace(settings, database_url=database, direct_database_url=database, **other)


async def make_keys(database: str) -> Keys:
    async with open_pool(database, role="tollgate_ops", size=1) as pool:
        merchant = await actions.create_merchant(pool, name="Corner Shop", now=now())
        secret = await actions.create_key(pool, "secret", merchant_id=merchant.id, now=now())
        live = await actions.create_key(pool, "secret", merchant_id=merchant.id, livemode=True, now=now())
        publishable = await actions.create_key(pool, "publishable", merchant_id=merchant.id, now=now())
        operator = await actions.create_key(pool, "operator", now=now())
    return Keys(merchant.id, secret.token, live.token, publishable.token, operator.token)


@asynccontextmanager
async def serving(settings: Settings, keys: Keys) -> AsyncIterator[Web]:
    app = main.create_app(settings, routes=(*LAYER, *ROUTES), lifespans=())
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(app, http=ProblemProtocol, lifespan="on", log_config=None, proxy_headers=False, server_header=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
        assert not task.done()
    async with aiohttp.ClientSession() as session:
        yield Web(f"http://127.0.0.1:{port}", port, keys, app.state.resources, session)
    server.should_exit = True
    await task


@pytest.fixture
async def web(database: str) -> AsyncIterator[Web]:
    async with serving(settings_for(database), await make_keys(database)) as running:
        yield running
