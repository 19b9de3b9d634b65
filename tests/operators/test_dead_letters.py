"""Dead letters and queues over HTTP, as an operator uses them."""

from typing import Any

import msgspec
import psycopg
import pytest

import outbox
from app.core.ids import new_id, typeid
from app.infra.db import connect
from outbox import Failed, NewRow
from tests.http.conftest import Web, make_keys, serving, settings_for

BECAUSE = b'{"reason":"the provider is back"}'


@pytest.fixture
async def web(database: str) -> Any:
    async with serving(settings_for(database), await make_keys(database)) as running:
        yield running


async def _bury(database: str, *, queue: str = "psp", payload: str = '{"operation":"op_1"}', count: int = 1) -> list[str]:
    """Letters made as workers make them: written, claimed, failed for good."""
    async with await connect(database, role="tollgate_writer") as connection:
        await outbox.write(connection, [NewRow(queue, "sandbox", "psp.call", payload) for _ in range(count)])
        rows = await outbox.claim(connection, queue, limit=count, lease_seconds=60, full_lanes=(), lane_limit=count)
        assert len(rows) == count
        await outbox.fail(connection, [Failed(row, "ValueError: poison") for row in rows])
        cursor = await connection.execute(
            "SELECT encode(uuid_send(id), 'hex') FROM dead_letters WHERE replayed_at IS NULL ORDER BY id DESC"
        )
        return [typeid("dl", row[0]) for row in (await cursor.fetchall())[:count]]


async def _ask(web: Web, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any], Any]:
    return await web.ask(method, f"/v1/ops{path}", body, token=web.keys.operator)


def _rows(database: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(statement.encode()).fetchall()


async def test_a_dead_letter_is_listed_and_shown_with_its_reason(web: Web, database: str) -> None:
    """What nobody could do is there with its payload and both errors."""
    (letter,) = await _bury(database)

    _, _, listed = await _ask(web, "GET", "/dead-letters?queue=psp")
    status, _, shown = await _ask(web, "GET", f"/dead-letters/{letter}")

    assert [one["id"] for one in listed["data"]] == [letter]
    assert status == 200
    assert listed["data"][0] == shown
    wanted = {"queue": "psp", "lane": "sandbox", "actor": "psp.call", "payload": {"operation": "op_1"}, "last_error": "ValueError: poison"}
    assert wanted.items() <= shown.items()


async def test_a_replay_brings_the_row_back_once(web: Web, database: str) -> None:
    """The first replay writes a row linked to the old one and says who and why; the second changes nothing and says so."""
    (letter,) = await _bury(database)

    first = await _ask(web, "POST", f"/dead-letters/{letter}/replay", BECAUSE)
    second = await _ask(web, "POST", f"/dead-letters/{letter}/replay", b'{"reason":"again"}')

    assert (first[0], second[0]) == (200, 200)
    assert first[2] == second[2]
    assert (first[2]["reason"], first[2]["acted_by"][:4], second[1]["idempotent-replayed"]) == ("the provider is back", "key_", "true")
    assert _rows(database, "SELECT count(*), min(payload) FROM outbox WHERE replay_of IS NOT NULL") == [(1, '{"operation":"op_1"}')]
    assert _rows(database, "SELECT act, subject, reason FROM operator_acts") == [("dead_letter.replay", letter, "the provider is back")]


async def test_a_discarded_letter_stays_discarded(web: Web, database: str) -> None:
    """Discarding is one act; a replay afterwards is 409, and nothing comes back."""
    (letter,) = await _bury(database)

    status, _, document = await _ask(web, "POST", f"/dead-letters/{letter}/discard", BECAUSE)
    refused, _, problem = await _ask(web, "POST", f"/dead-letters/{letter}/replay", BECAUSE)

    assert (status, document["discarded_at"] is not None) == (200, True)
    assert (refused, problem["code"]) == (409, "dead_letter_closed")
    assert _rows(database, "SELECT count(*) FROM outbox") == [(0,)]
    assert _rows(database, "SELECT act FROM operator_acts") == [("dead_letter.discard",)]


async def test_an_act_needs_a_reason(web: Web, database: str) -> None:
    """Without a reason, or with an empty one, nothing is done."""
    (letter,) = await _bury(database)

    for body, code in ((b"", "missing_field"), (b'{"reason":""}', "invalid_value"), (b'{"reason":null}', "invalid_request")):
        _, _, document = await _ask(web, "POST", f"/dead-letters/{letter}/replay", body)
        assert document["code"] == code
    assert _rows(database, "SELECT count(*) FROM outbox") == [(0,)]


async def test_many_are_replayed_by_a_filter_after_a_dry_run(web: Web, database: str) -> None:
    """A dry run names what a replay would bring back and touches nothing; the replay does it and records each."""
    letters = await _bury(database, count=3)
    await _bury(database, queue="webhooks")
    body = {"filter": {"queue": "psp"}, "reason": "deployed a fix", "dry_run": True}

    _, _, dry = await _ask(web, "POST", "/dead-letters/replay", msgspec.json.encode(body))
    untouched = _rows(database, "SELECT count(*) FROM outbox")
    _, _, done = await _ask(web, "POST", "/dead-letters/replay", msgspec.json.encode(body | {"dry_run": False}))
    _, _, again = await _ask(web, "POST", "/dead-letters/replay", msgspec.json.encode(body | {"dry_run": False}))

    assert (dry["count"], sorted(dry["dead_letters"]), untouched) == (3, sorted(letters), [(0,)])
    assert (done["count"], again["count"]) == (3, 0)
    assert _rows(database, "SELECT queue, count(*) FROM outbox GROUP BY queue") == [("psp", 3)]
    assert _rows(database, "SELECT count(*) FROM operator_acts WHERE reason = 'deployed a fix'") == [(3,)]


async def test_letters_are_paged_newest_first_and_since(web: Web, database: str) -> None:
    """Pages follow one another without gap or repeat; `since` leaves out what is older."""
    letters = await _bury(database, count=5)
    seen: list[str] = []
    after = ""
    while True:
        _, _, page = await _ask(web, "GET", f"/dead-letters?limit=2{after}")
        seen += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break
        after = f"&starting_after={seen[-1]}"
    _, _, future = await _ask(web, "GET", "/dead-letters?since=2999-01-01T00:00:00Z")

    assert seen == letters
    assert future["data"] == []


async def test_what_is_not_there_is_not_found(web: Web) -> None:
    """Unknown and malformed ids are 404, whatever is asked of them."""
    for letter in (typeid("dl", new_id()), "dl_x", "pay_00000000000000000000000000"):
        for method, path, body in (("GET", "", None), ("POST", "/replay", BECAUSE), ("POST", "/discard", BECAUSE)):
            status, _, _ = await _ask(web, method, f"/dead-letters/{letter}{path}", body)
            assert status == 404


async def test_a_payload_that_is_no_json_is_shown_as_it_is(web: Web, database: str) -> None:
    """A poison message may be anything."""
    (letter,) = await _bury(database, payload="{poison")

    _, _, shown = await _ask(web, "GET", f"/dead-letters/{letter}")

    assert shown["payload"] == "{poison"


async def test_queues_are_counted(web: Web, database: str) -> None:
    """Depth, what is due, what is in flight and what is dead, per queue."""
    await _bury(database)
    async with await connect(database, role="tollgate_writer") as connection:
        await outbox.write(connection, [NewRow("psp", "sandbox", "psp.call", "{}") for _ in range(3)])
        await outbox.claim(connection, "psp", limit=1, lease_seconds=60, full_lanes=(), lane_limit=10)

    _, _, document = await _ask(web, "GET", "/queues")

    (queue,) = document["data"]
    assert {"queue": "psp", "depth": 3, "due": 2, "in_flight": 1, "dead_letters": 1}.items() <= queue.items()
    assert queue["oldest_seconds"] >= 0
