"""Endpoints, deliveries and events as a merchant's developer meets them, over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
import standardwebhooks
import uvicorn

from app import main
from app.core.clock import now, rfc3339
from app.core.ids import new_id, typeid
from app.identity import actions as identity
from app.identity.model import API_VERSIONS
from app.infra.db import Connection, open_pool
from app.settings import read_settings
from app.webhooks import api, present
from app.webhooks.signing import derive_secret, shown
from tests.webhooks.builders import SERVER_KEY, announce, event_row, opened, owner
from tests.webhooks.receiver import Receiver

HOOKS = "/v1/webhook_endpoints"


class Api(NamedTuple):
    session: aiohttp.ClientSession
    url: str
    merchant_id: str
    token: str
    other_token: str

    async def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, key: str | None = None, if_match: str | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        headers |= {"Idempotency-Key": key} if key else {}
        headers |= {"If-Match": if_match} if if_match else {}
        async with self.session.request(method, self.url + path, json=body, headers=headers) as response:
            return (
                response.status,
                await response.json(content_type=None),
                {name.lower(): value for name, value in response.headers.items()},
            )

    async def create(self, url: str = "https://example.com/hook", *enabled_events: str, **members: Any) -> Any:
        status, made, _ = await self.ask("POST", HOOKS, {"url": url, "enabled_events": enabled_events or ["*"], **members})
        assert status == 201, made
        return made


@pytest.fixture
async def api_of(database: str) -> AsyncIterator[Api]:
    settings = msgspec.structs.replace(
        read_settings({"ENVIRONMENT": "test", "DATABASE_URL": "postgresql://elsewhere/x"}),
        database_url=database,
        direct_database_url=database,
        webhooks_allow_loopback=True,
        server_key=SERVER_KEY,
    )
    async with open_pool(database, role="tollgate_ops", size=1) as ops:
        ours, theirs = [await identity.create_merchant(ops, name=name, now=now()) for name in ("Corner Shop", "Other Shop")]
        own, other = [await identity.create_key(ops, "secret", merchant_id=one.id, now=now()) for one in (ours, theirs)]
    async with serving(main.create_app(settings, routes=api.ROUTES, lifespans=())) as url, aiohttp.ClientSession() as session:
        yield Api(session, url, ours.id, own.token, other.token)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, http="httptools", lifespan="on", log_config=None))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not task.done()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


async def test_an_endpoint_is_created_shown_changed_and_deleted(api_of: Api) -> None:
    """The life of an endpoint; each visible change is a version."""
    made = await api_of.create("https://example.com/hook", "payment.captured", "refund.*", description="Shop", metadata={"team": "a"})
    path = f"{HOOKS}/{made['id']}"
    assert made["secret"].startswith("whsec_")
    assert (made["object"], made["status"], made["livemode"], made["version"]) == ("webhook_endpoint", "enabled", False, 1)

    status, one, headers = await api_of.ask("GET", path)
    assert (status, headers["etag"]) == (200, '"1"')
    assert {name: value for name, value in made.items() if name != "secret"} == one

    wish = {"url": "https://example.com/new", "metadata": {"team": None, "env": "x"}, "description": None}
    status, changed, headers = await api_of.ask("PATCH", path, wish, if_match='"1"')
    assert (status, headers["etag"]) == (200, '"2"')
    assert (changed["url"], changed["metadata"], changed["description"], changed["version"]) == (wish["url"], {"env": "x"}, None, 2)
    assert "secret" not in changed

    assert (await api_of.ask("PATCH", path, {"url": wish["url"]}))[1]["version"] == 2
    assert (await api_of.ask("PATCH", path, {"disabled": True}))[1]["disabled_reason"] == "merchant"
    assert (await api_of.ask("PATCH", path, {"disabled": False}))[1]["status"] == "enabled"
    assert (await api_of.ask("DELETE", path))[:2] == (200, {"id": made["id"], "object": "webhook_endpoint", "deleted": True})
    assert (await api_of.ask("GET", path))[0] == 404
    assert (await api_of.ask("DELETE", path))[0] == 404


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"url": "https://127.0.0.1.example/", "enabled_events": ["payment.captures"]}, 422, "invalid_value"),
        ({"url": "https://example.com/", "enabled_events": []}, 422, "invalid_value"),
        ({"url": "https://10.0.0.1/", "enabled_events": ["*"]}, 422, "webhook_url_refused"),
        ({"url": "https://169.254.169.254/latest", "enabled_events": ["*"]}, 422, "webhook_url_refused"),
        ({"url": "ftp://example.com/", "enabled_events": ["*"]}, 422, "webhook_url_refused"),
        ({"url": "https://a:b@example.com/", "enabled_events": ["*"]}, 422, "webhook_url_refused"),
        ({"enabled_events": ["*"]}, 400, "missing_field"),
        ({"url": "https://example.com/", "enabled_events": "*"}, 400, "invalid_request"),
        ({"url": "https://example.com/", "enabled_events": ["*"], "secret": "mine"}, 400, "unknown_field"),
    ],
)
async def test_a_request_that_cannot_work_is_refused(api_of: Api, body: Any, status: int, code: str) -> None:
    """With the code of the table, before anything is written."""
    answered, problem, _ = await api_of.ask("POST", HOOKS, body)

    assert (answered, problem["code"]) == (status, code), problem
    assert (await api_of.ask("GET", HOOKS))[1]["data"] == []


async def test_the_secret_is_in_the_create_answer_and_its_repeats_for_a_day(api_of: Api, database: str) -> None:
    """A lost answer loses no secret; the database holds none, and after 24 hours nobody is shown it again."""
    body = {"url": "https://example.com/hook", "enabled_events": ["*"]}
    first = await api_of.ask("POST", HOOKS, body, key="k1")
    await api_of.ask("POST", f"{HOOKS}/{first[1]['id']}/rotate_secret")
    again = await api_of.ask("POST", HOOKS, body, key="k1")

    assert (first[0], again[0]) == (201, 201)
    assert first[1] == again[1]
    assert again[2]["idempotent-replayed"] == "true"
    assert len((await api_of.ask("GET", HOOKS))[1]["data"]) == 1
    async with await owner(database) as connection:
        cursor = await connection.execute("SELECT answer FROM idempotency_keys")
        assert first[1]["secret"] not in str(await cursor.fetchall())
        await connection.execute(
            "UPDATE idempotency_keys SET created_at = created_at - interval '25 hours', expires_at = expires_at - interval '25 hours'"
        )
    assert (await api_of.ask("POST", HOOKS, body, key="k1"))[1]["code"] == "secret_already_shown"


async def test_a_key_makes_one_endpoint_of_many_requests(api_of: Api) -> None:
    """At once or one after the other, the same request under one key has one effect; another request under it is refused."""
    body = {"url": "https://example.com/hook", "enabled_events": ["*"]}

    answers = await asyncio.gather(*(api_of.ask("POST", HOOKS, body, key="once") for _ in range(12)))

    assert {answer[0] for answer in answers} <= {201, 409}
    assert len({answer[1]["id"] for answer in answers if answer[0] == 201}) == 1
    assert len((await api_of.ask("GET", HOOKS))[1]["data"]) == 1
    other = await api_of.ask("POST", HOOKS, body | {"description": "other"}, key="once")
    assert (other[0], other[1]["code"]) == (422, "idempotency_key_reused")


async def test_rotation_answers_a_new_secret_and_keeps_the_old_one_for_a_day(api_of: Api) -> None:
    """The answer says until when both sign."""
    made = await api_of.create()

    status, rotated, _ = await api_of.ask("POST", f"{HOOKS}/{made['id']}/rotate_secret", key="r1")

    assert status == 200
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != made["secret"]
    assert rotated["previous_secret_expires_at"] > rfc3339(now() + timedelta(hours=23))
    assert (await api_of.ask("POST", f"{HOOKS}/{made['id']}/rotate_secret", key="r1"))[1] == rotated


async def test_a_stale_version_changes_nothing(api_of: Api) -> None:
    """If-Match protects one developer's change from another's; a repeat of a change is decided before it."""
    made = await api_of.create()
    path = f"{HOOKS}/{made['id']}"
    assert (await api_of.ask("PATCH", path, {"description": "a"}, if_match='"1"', key="p"))[0] == 200

    assert (await api_of.ask("PATCH", path, {"description": "b"}, if_match='"1"'))[1]["code"] == "version_conflict"
    assert (await api_of.ask("DELETE", path, if_match='"1"'))[0] == 412
    assert (await api_of.ask("PATCH", path, {"description": "a"}, if_match='"1"', key="p"))[0] == 200


async def test_another_merchant_s_endpoint_and_events_are_not_there(api_of: Api, writer: Connection) -> None:
    """Every route answers 404 to a stranger's key, and lists nothing."""
    made = await api_of.create()
    (event,) = await announce(writer, event_row(merchant_id=api_of.merchant_id))
    path, stranger = f"{HOOKS}/{made['id']}", api_of.other_token
    events = f"/v1/events/{typeid('evt', event.id)}"

    for method, where, body in (
        ("GET", path, None),
        ("PATCH", path, {"description": "x"}),
        ("DELETE", path, None),
        ("POST", f"{path}/rotate_secret", None),
        ("POST", f"{path}/test", None),
        ("POST", f"{path}/recover", {"since": rfc3339(now() - timedelta(hours=1))}),
        ("GET", f"{path}/deliveries", None),
        ("GET", events, None),
        ("POST", f"{events}/redeliver", {}),
    ):
        assert (await api_of.ask(method, where, body, token=stranger))[0] == 404, where
    assert (await api_of.ask("GET", HOOKS, token=stranger))[1]["data"] == []
    assert (await api_of.ask("GET", "/v1/events", token=stranger))[1]["data"] == []


async def test_endpoints_and_deliveries_are_listed_by_pages_newest_first(
    api_of: Api, writer: Connection, database: str, receiver: Receiver
) -> None:
    """Both ways through the pages, with the status as a filter."""
    made = [await api_of.create(f"{receiver.url}/hook", "payment.*") for _ in range(3)]
    ids = [one["id"] for one in reversed(made)]
    first = (await api_of.ask("GET", f"{HOOKS}?limit=2"))[1]
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:2], True)
    rest = (await api_of.ask("GET", f"{HOOKS}?limit=2&starting_after={ids[1]}"))[1]
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (ids[2:], False)
    back = (await api_of.ask("GET", f"{HOOKS}?limit=1&ending_before={ids[2]}"))[1]
    assert ([one["id"] for one in back["data"]], back["has_more"]) == ([ids[1]], True)
    assert (await api_of.ask("GET", f"{HOOKS}?status=disabled"))[1]["data"] == []

    receiver.answer_with(500, times=1)
    await announce(writer, event_row(merchant_id=api_of.merchant_id))
    async with opened(database, writer) as courier:
        await courier.run()
    found = [(await api_of.ask("GET", f"{HOOKS}/{one}/deliveries"))[1]["data"][0] for one in ids]
    assert sorted(one["status"] for one in found) == ["delivered", "delivered", "retrying"]
    (retrying,) = [one for one in found if one["status"] == "retrying"]
    assert (retrying["attempts"], retrying["last_status_code"], retrying["log"][0]["status"]) == (1, 500, 500)
    where = f"{HOOKS}/{retrying['endpoint_id']}"
    assert (await api_of.ask("GET", f"{where}/deliveries?status=delivered"))[1]["data"] == []
    assert (await api_of.ask("GET", where))[1]["health"]["consecutive_failures"] == 1


async def test_a_test_event_can_be_verified_with_the_secret_of_the_answer(
    api_of: Api, writer: Connection, database: str, receiver: Receiver
) -> None:
    """A developer's first quarter of an hour: create, test, verify."""
    made = await api_of.create(f"{receiver.url}/hook", "refund.*")

    status, event, _ = await api_of.ask("POST", f"{HOOKS}/{made['id']}/test")
    async with opened(database, writer) as courier:
        await courier.run()

    assert (status, event["type"]) == (200, "webhook_endpoint.tested")
    (got,) = receiver.got()
    assert standardwebhooks.Webhook(made["secret"]).verify(got["body"], got["headers"]) == event


async def test_redeliver_and_recover_write_their_work(api_of: Api, writer: Connection) -> None:
    """What was asked for is in the outbox with the answer, once per idempotency key."""
    made = await api_of.create("https://example.com/hook", "payment.*")
    (event,) = await announce(writer, event_row(merchant_id=api_of.merchant_id))
    await writer.execute("DELETE FROM outbox")
    path = f"/v1/events/{typeid('evt', event.id)}/redeliver"
    since = rfc3339(now() - timedelta(hours=1))

    for _ in range(2):
        status, told, _ = await api_of.ask("POST", path, {}, key="a")
        assert (status, told["webhook_endpoint_ids"]) == (200, [made["id"]])
        assert (await api_of.ask("POST", f"{HOOKS}/{made['id']}/recover", {"since": since}, key="b"))[1]["since"] == since
    assert (await api_of.ask("POST", path, {"webhook_endpoint_id": typeid("we", new_id())}))[0] == 404
    assert (await api_of.ask("POST", path, {"webhook_endpoint_id": "we_x"}))[0] == 422
    assert (await api_of.ask("POST", f"{HOOKS}/{made['id']}/recover", {"since": "2020-01-01T00:00:00Z"}))[1]["code"] == "invalid_value"

    cursor = await writer.execute("SELECT actor FROM outbox ORDER BY id")
    assert [row[0] for row in await cursor.fetchall()] == ["webhook.deliver", "webhook.recover"]


async def test_the_feed_is_walked_with_its_cursor(api_of: Api, writer: Connection) -> None:
    """Polling with `next_cursor` sees each event once, ascending, and the same bytes as a webhook's body."""
    written = [(await announce(writer, event_row(merchant_id=api_of.merchant_id)))[0] for _ in range(3)]

    first = (await api_of.ask("GET", "/v1/events?limit=2"))[1]
    second = (await api_of.ask("GET", f"/v1/events?limit=2&cursor={first['next_cursor']}"))[1]
    nothing = (await api_of.ask("GET", f"/v1/events?cursor={second['next_cursor']}"))[1]

    assert [one["id"] for one in (*first["data"], *second["data"])] == [typeid("evt", one.id) for one in written]
    assert (first["has_more"], second["has_more"], nothing["data"], nothing["next_cursor"]) == (True, False, [], second["next_cursor"])
    object_id = typeid("pay", written[1].object_id)
    one = (await api_of.ask("GET", f"/v1/events?object_id={object_id}&type=payment.created"))[1]["data"]
    assert one == [(await api_of.ask("GET", f"/v1/events/{typeid('evt', written[1].id)}"))[1]]
    assert (await api_of.ask("GET", f"/v1/events?object_id={object_id}&type=refund.created"))[1]["data"] == []


@pytest.mark.parametrize(
    "query", ["cursor=x", "cursor=", "cursor=%00", "type=payment", "type=%27", "object_id=pay_1", "object_id=x", "limit=0", "since=1"]
)
async def test_a_bad_question_to_the_feed_is_refused(api_of: Api, query: str) -> None:
    """400 and a problem document, never a page of something else."""
    status, problem, _ = await api_of.ask("GET", f"/v1/events?{query}")

    assert status == 400
    assert problem["code"] in {"invalid_cursor", "invalid_request", "unknown_filter"}


async def test_a_merchant_has_a_limited_number_of_endpoints(api_of: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event becomes a row per listener, so listeners are counted."""
    monkeypatch.setattr("app.webhooks.actions.MAX_ENDPOINTS", 2)
    await api_of.create()
    await api_of.create()

    assert (await api_of.ask("POST", HOOKS, {"url": "https://example.com/", "enabled_events": ["*"]}))[0] == 422


def test_bodies_and_keys_are_of_one_version() -> None:
    """What a webhook says about its shape is what a new key is born with."""
    assert API_VERSIONS[-1] == present.API_VERSION


def test_the_shown_secret_is_base64_of_the_derived_bytes() -> None:
    """So that any Standard Webhooks library takes it."""
    assert len(json.dumps(shown(derive_secret(SERVER_KEY, endpoint_id=new_id(), salt="a" * 32)))) == 2 + len("whsec_") + 44
