"""Raw SQL against the rules that the database keeps about merchants, keys and operators' acts."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from app.core.ids import new_id
from tests.refusal import forbidden, refused

Connection = psycopg.Connection[Any]
MERCHANT = new_id()
OTHER = new_id()
KEY = {
    "id": None,
    "merchant_id": MERCHANT,
    "livemode": False,
    "kind": "secret",
    "hash": b"h" * 32,
    "prefix": "sk_test_abcd",
    "last4": "wxyz",
    "api_version": "2026-11-20",
    "created_at": "2026-11-20T12:00:00Z",
    "expires_at": None,
    "revoked_at": None,
}


def _insert(connection: Connection, table: str, values: dict[str, Any]) -> None:
    names = ", ".join(values)
    marks = ", ".join(f"%({name})s" for name in values)
    with connection.transaction():
        connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})".encode(), values)


def _key(connection: Connection, **other: Any) -> str:
    id_ = new_id()
    _insert(connection, "api_keys", {**KEY, "id": id_, "hash": id_.encode(), **other})
    return id_


def _merchant(connection: Connection, **other: Any) -> None:
    _insert(
        connection, "merchants", {"id": new_id(), "name": "x", "api_version": "2026-11-20", "created_at": "2026-11-20T12:00:00Z", **other}
    )


def _act(connection: Connection, **other: Any) -> None:
    values = {"id": new_id(), "occurred_at": "2026-11-20T12:00:00Z", "actor": "key_x", "act": "a.b", "subject": "dl_x", "reason": "because"}
    _insert(connection, "operator_acts", {**values, **other})


@pytest.fixture
def connection(any_database: str) -> Iterator[Connection]:
    """As the operators' role, on the newest and on the oldest supported server."""
    with psycopg.connect(any_database, autocommit=True) as open_connection:
        open_connection.execute("SET ROLE tollgate_ops")
        _merchant(open_connection, id=MERCHANT)
        _merchant(open_connection, id=OTHER)
        yield open_connection


def _become(connection: Connection, role: str, *, merchant_id: str | None = None, livemode: bool = False) -> None:
    connection.execute("RESET ROLE")
    connection.execute(f"SET ROLE {role}".encode())
    if merchant_id is not None:
        connection.execute("SELECT set_config('tollgate.merchant_id', %s, false)", (merchant_id,))
        connection.execute("SELECT set_config('tollgate.livemode', %s, false)", (str(livemode).lower(),))


def test_the_shape_of_merchants_keys_and_acts_is_enforced(connection: Connection) -> None:
    """Each CHECK refuses the row that breaks its sentence."""
    taken = _key(connection)
    attacks: dict[str, Callable[[], object]] = {
        "merchant_name_is_1_to_200_long": lambda: _merchant(connection, name=""),
        "merchant_version_is_a_date": lambda: _merchant(connection, api_version="latest"),
        "api_key_kind_is_known": lambda: _key(connection, kind="master"),
        "api_key_hash_is_sha256": lambda: _key(connection, hash=b"short"),
        "api_key_prefix_gives_nothing_away": lambda: _key(connection, prefix="sk_test_" + "a" * 20),
        "api_key_last4_is_4_long": lambda: _key(connection, last4="12345"),
        "api_key_version_is_a_date": lambda: _key(connection, api_version="v1"),
        "api_key_hash_is_unique": lambda: _key(connection, hash=taken.encode()),
        "operator_key_belongs_to_no_merchant": lambda: _key(connection, kind="operator", livemode=None),
        "operator_key_has_no_mode": lambda: _key(connection, kind="operator", merchant_id=None),
        "api_key_expires_after_it_begins": lambda: _key(connection, expires_at="2026-11-20T11:00:00Z"),
        "api_key_is_revoked_after_it_begins": lambda: _key(connection, revoked_at="2026-11-20T11:00:00Z"),
        "api_keys_merchant_id_fkey": lambda: _key(connection, merchant_id=new_id()),
        "operator_act_names_its_actor": lambda: _act(connection, actor=""),
        "operator_act_has_a_name": lambda: _act(connection, act=""),
        "operator_act_has_a_subject": lambda: _act(connection, subject=""),
        "operator_act_has_a_reason": lambda: _act(connection, reason=""),
    }

    for constraint, attack in attacks.items():
        with refused(constraint):
            attack()


def test_a_merchants_key_has_its_merchant_and_mode(connection: Connection) -> None:
    """The two-way CHECKs hold the other way round too."""
    with refused("operator_key_belongs_to_no_merchant"):
        _key(connection, merchant_id=None)
    with refused("operator_key_has_no_mode"):
        _key(connection, livemode=None)


def test_a_key_keeps_what_it_is(connection: Connection) -> None:
    """Owner, kind, mode and hash never change, and a revocation is not taken back, not even by the owner of the table."""
    key = _key(connection)
    connection.execute("UPDATE api_keys SET revoked_at = '2026-11-20T13:00:00Z' WHERE id = %s", (key,))
    connection.execute("RESET ROLE")

    for change in (f"merchant_id = '{OTHER}'", "livemode = true", "kind = 'publishable'", f"hash = '{'x' * 32}'", "created_at = now()"):
        with refused("api_key_identity_is_fixed"):
            connection.execute(f"UPDATE api_keys SET {change}".encode())
    with refused("api_key_revocation_is_final"):
        connection.execute("UPDATE api_keys SET revoked_at = NULL")


def test_acts_are_append_only(connection: Connection) -> None:
    """Nobody changes or removes what operators did: the roles have no right to, and the owner is refused."""
    _act(connection)

    for statement in (b"UPDATE operator_acts SET reason = 'x'", b"DELETE FROM operator_acts", b"TRUNCATE operator_acts"):
        with forbidden():
            connection.execute(statement)
    connection.execute("RESET ROLE")
    for statement in (b"UPDATE operator_acts SET reason = 'x'", b"DELETE FROM operator_acts", b"TRUNCATE operator_acts"):
        with refused("operator_acts_are_append_only"):
            connection.execute(statement)


def test_the_application_sees_its_own_merchant_and_no_key(connection: Connection) -> None:
    """Under the application's role one merchant is visible, keys and acts are out of reach, and nothing is without a merchant."""
    _become(connection, "tollgate_app", merchant_id=MERCHANT)

    assert connection.execute("SELECT replace(id::text, '-', '') FROM merchants").fetchall() == [(MERCHANT,)]
    for statement in (b"SELECT FROM api_keys", b"SELECT FROM operator_acts", b"DELETE FROM merchants", b"UPDATE merchants SET name = 'x'"):
        with forbidden():
            connection.execute(statement)
    connection.execute("SELECT set_config('tollgate.merchant_id', '', false)")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        connection.execute("SELECT FROM merchants")


def test_the_writer_finds_keys_and_notes_their_use_and_nothing_more(connection: Connection) -> None:
    """What authenticates requests can neither make nor revoke a key."""
    key = _key(connection)
    _become(connection, "tollgate_writer")

    connection.execute("UPDATE api_keys SET last_used_at = now() WHERE id = %s", (key,))
    assert connection.execute("SELECT count(*) FROM api_keys WHERE last_used_at IS NOT NULL").fetchone() == (1,)
    for statement in (b"UPDATE api_keys SET revoked_at = now()", b"DELETE FROM api_keys", b"INSERT INTO api_keys DEFAULT VALUES"):
        with forbidden():
            connection.execute(statement)
