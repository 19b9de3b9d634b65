"""Raw SQL against the outbox's tables: what the database itself refuses, and what each role may do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.refusal import forbidden, refused

MIGRATION = Path("sql/0002_outbox.sql")
ROW = {"queue": "q", "lane": "l", "actor": "a", "payload": "{}"}
TENANT = "0190a5da-c000-7000-8000-00000000000a"
LETTER = {**ROW, "outbox_id": 1, "attempts": 1, "failures": 1, "first_error": "e", "last_error": "e", "created_at": "2026-01-01"}


@pytest.fixture
def owner(any_database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(any_database, autocommit=True) as connection:
        yield connection


def insert(connection: psycopg.Connection[Any], table: str, values: dict[str, Any]) -> None:
    columns, places = ", ".join(values), ", ".join(["%s"] * len(values))
    connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", list(values.values()))


@pytest.mark.parametrize(
    ("constraint", "wrong"),
    [
        ("outbox_queue_is_named", {"queue": ""}),
        ("outbox_queue_is_named", {"queue": "q" * 51}),
        ("outbox_lane_is_named", {"lane": ""}),
        ("outbox_actor_is_named", {"actor": ""}),
        ("outbox_counts_are_never_negative", {"attempt": -1}),
        ("outbox_counts_are_never_negative", {"attempt": 1, "returned": -1}),
        ("outbox_every_end_had_a_claim", {"attempt": 1, "returned": 2}),
        ("outbox_failure_has_its_errors", {"attempt": 1, "failures": 1}),
        ("outbox_failure_has_its_errors", {"attempt": 1, "failures": 1, "first_error": "e"}),
        ("outbox_failure_has_its_errors", {"first_error": "e", "last_error": "e"}),
    ],
)
def test_a_row_is_whole(owner: psycopg.Connection[Any], constraint: str, wrong: dict[str, Any]) -> None:
    """A row has its names, counts that add up, and errors exactly when it has failed."""
    insert(owner, "outbox", ROW)

    with refused(constraint):
        insert(owner, "outbox", {**ROW, **wrong})


def test_a_row_keeps_its_id(owner: psycopg.Connection[Any]) -> None:
    """Nobody chooses the id of a row, so no row takes the place of another."""
    with pytest.raises(psycopg.errors.GeneratedAlways):
        insert(owner, "outbox", {**ROW, "id": 1})
    insert(owner, "outbox", ROW)
    with refused("outbox_pkey"):
        owner.execute(
            "INSERT INTO outbox (id, queue, lane, actor, payload) OVERRIDING SYSTEM VALUE SELECT id, queue, lane, actor, payload FROM outbox"
        )


@pytest.mark.parametrize(
    ("constraint", "wrong"),
    [
        ("dead_letter_is_written_once_per_row", {}),
        (
            "dead_letter_is_replayed_or_discarded_never_both",
            {"replayed_at": "now", "replayed_as": 9, "discarded_at": "now", "acted_by": "a", "reason": "r"},
        ),
        ("dead_letter_replayed_names_its_new_row", {"replayed_at": "now", "acted_by": "a", "reason": "r"}),
        ("dead_letter_replayed_names_its_new_row", {"replayed_as": 9}),
        ("dead_letter_closed_says_who_and_why", {"discarded_at": "now"}),
        ("dead_letter_closed_says_who_and_why", {"discarded_at": "now", "acted_by": "a"}),
        ("dead_letter_closed_says_who_and_why", {"discarded_at": "now", "acted_by": "", "reason": "r"}),
        ("dead_letter_closed_says_who_and_why", {"acted_by": "a", "reason": "r"}),
    ],
)
def test_a_letter_is_closed_one_way(owner: psycopg.Connection[Any], constraint: str, wrong: dict[str, Any]) -> None:
    """A letter is open, replayed or discarded, by somebody and for a reason, and there is one for each row that died."""
    insert(owner, "dead_letters", LETTER)

    with refused(constraint):
        insert(owner, "dead_letters", {**LETTER, "outbox_id": 2 if wrong else 1, **wrong})


def test_letters_have_ids_in_the_order_of_their_death(owner: psycopg.Connection[Any]) -> None:
    """The id that the database makes is a UUIDv7: its order is the order of time."""
    for number in range(3):
        insert(owner, "dead_letters", {**LETTER, "outbox_id": number})
        owner.execute("SELECT pg_sleep(0.002)")

    ids = [str(record[0]) for record in owner.execute("SELECT id FROM dead_letters ORDER BY outbox_id")]
    assert ids == sorted(ids)
    assert {(text[14], text[19] in "89ab") for text in ids} == {("7", True)}
    with refused("dead_letters_pkey"):
        insert(owner, "dead_letters", {**LETTER, "outbox_id": 9, "id": ids[0]})


@pytest.mark.parametrize(
    ("constraint", "values"),
    [
        ("inbox_event_is_received_once", {}),
        ("inbox_event_id_is_1_to_255_long", {"provider_event_id": ""}),
        ("inbox_event_is_applied_after_it_came", {"provider_event_id": "e2", "applied_at": "2020-01-01"}),
    ],
)
def test_an_event_is_received_once(owner: psycopg.Connection[Any], constraint: str, values: dict[str, Any]) -> None:
    """A provider's event stands in the inbox once, under its id, and is applied after it came."""
    event = {"provider": "p", "provider_event_id": "e", "body": b"{}"}
    insert(owner, "inbox", event)

    with refused(constraint):
        insert(owner, "inbox", {**event, **values})


def test_the_application_may_only_add_rows(owner: psycopg.Connection[Any]) -> None:
    """The application's role writes rows, chooses neither counts nor errors, and sees nothing of what waits or died."""
    owner.execute("SET ROLE tollgate_app")
    owner.execute("SELECT set_config('tollgate.merchant_id', %s, false)", (TENANT,))

    insert(owner, "outbox", ROW | {"tenant": TENANT})
    for statement in (
        "INSERT INTO outbox (queue, lane, actor, payload, attempt) VALUES ('q', 'l', 'a', '{}', 5)",
        "INSERT INTO outbox (queue, lane, actor, payload, replay_of) VALUES ('q', 'l', 'a', '{}', 5)",
        "SELECT id FROM outbox",
        "UPDATE outbox SET attempt = 0",
        "DELETE FROM outbox",
        "TRUNCATE outbox",
        "SELECT id FROM dead_letters",
        "INSERT INTO dead_letters (outbox_id) VALUES (1)",
        "SELECT body FROM inbox",
        "DELETE FROM inbox",
    ):
        with forbidden():
            owner.execute(statement)


@pytest.mark.parametrize("tenant", ["0190a5da-c000-7000-8000-00000000000b", None])
def test_the_application_leaves_no_work_for_others(owner: psycopg.Connection[Any], tenant: str | None) -> None:
    """Neither for another merchant nor for nobody; without a merchant of its own, for none at all."""
    owner.execute("SET ROLE tollgate_app")
    with pytest.raises(psycopg.errors.UndefinedObject):
        insert(owner, "outbox", ROW | {"tenant": TENANT})

    owner.execute("SELECT set_config('tollgate.merchant_id', %s, false)", (TENANT,))
    with forbidden():
        insert(owner, "outbox", ROW | {"tenant": tenant})


def test_letters_are_closed_by_operators_and_deleted_by_nobody(owner: psycopg.Connection[Any]) -> None:
    """Workers write letters and cannot touch them again; operators close them and change nothing of what they say."""
    insert(owner, "dead_letters", LETTER)
    for role, statements in {
        "tollgate_writer": ["UPDATE dead_letters SET reason = 'r'", "DELETE FROM dead_letters"],
        "tollgate_ops": [
            "UPDATE dead_letters SET last_error = ''",
            "DELETE FROM dead_letters",
            "DELETE FROM outbox",
            "UPDATE outbox SET attempt = 0",
        ],
    }.items():
        owner.execute(f"SET ROLE {role}")
        for statement in statements:
            with forbidden():
                owner.execute(statement)


def test_the_file_needs_nobody(empty_database: str) -> None:
    """On a database that knows neither the other migrations nor the roles the file makes the three tables."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(MIGRATION.read_text().replace("tollgate_", "nobody_knows_"))

        assert connection.execute("SELECT count(*) FROM outbox, dead_letters, inbox").fetchone() == (0,)
