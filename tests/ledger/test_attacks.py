"""Raw SQL under the application's roles, and where that is told, under the owner's: the books refuse by themselves."""

from typing import Any

import psycopg
import pytest

from app.core.ids import new_id
from app.ledger import balance, store
from tests.ledger.builders import MERCHANT, Row, balances, captured, insert, posting, raw
from tests.refusal import forbidden, refused


async def test_the_rows_that_are_spoiled_below_are_accepted_as_they_are(writer: store.Connection) -> None:
    """Each attack differs from this by one thing, so it is that thing which is refused."""
    transaction, entries = raw()

    await insert(writer, [transaction], entries)

    assert await balances(writer) == {"USD": (2494, 0)}


@pytest.mark.parametrize(
    ("entry", "change"),
    [(0, {"amount": 2600}), (1, {"direction": "debit"}), (0, {"currency": "EUR"}), (3, {"amount": 10**15})],
)
async def test_debits_equal_credits_per_transaction_and_currency(writer: store.Connection, entry: int, change: Row) -> None:
    """An entry too large, on the wrong side or in another currency takes its whole statement with it."""
    transaction, entries = raw()
    entries[entry].update(change)

    with refused("ledger_transaction_sums_to_zero"):
        await insert(writer, [transaction], entries)
    assert await balances(writer) == {}


async def test_two_wrong_transactions_do_not_make_a_right_one(writer: store.Connection) -> None:
    """What one transaction lacks another cannot lend it, even in the same statement."""
    first, first_entries = raw()
    second, second_entries = raw()
    first_entries[0]["amount"] += 1
    second_entries[0]["amount"] -= 1

    with refused("ledger_transaction_sums_to_zero"):
        await insert(writer, [first, second], first_entries + second_entries)


async def test_entries_are_never_added_to_a_transaction_later(writer: store.Connection) -> None:
    """A balanced pair is refused when its transaction is already there, in the same database transaction too."""
    transaction, entries = raw()
    _, more = raw(of={"transaction_id": transaction["transaction_id"]})

    async with writer.transaction(force_rollback=True):
        await insert(writer, [transaction], entries)
        with refused("ledger_entries_come_with_their_transaction"):
            await insert(writer, [], more)


async def test_entries_without_a_transaction_are_refused(writer: store.Connection) -> None:
    """Money that moves for no reason does not move."""
    _, entries = raw()

    with refused("ledger_entries_come_with_their_transaction"):
        await insert(writer, [], entries)


@pytest.mark.parametrize("change", [{"merchant_id": new_id()}, {"livemode": True}])
@pytest.mark.parametrize("spoiled", [slice(0, 2), slice(0, 4)])
async def test_entries_are_of_their_transactions_merchant_and_mode(writer: store.Connection, change: Row, spoiled: slice) -> None:
    """A balanced pair cannot be slipped to another merchant, nor to the other mode."""
    transaction, entries = raw()
    for entry in entries[spoiled]:
        entry.update(change)

    with refused("ledger_entries_come_with_their_transaction"):
        await insert(writer, [transaction], entries)


async def test_a_transaction_without_entries_is_refused(writer: store.Connection) -> None:
    """A row that says money moved comes with the entries that move it."""
    transaction, _ = raw()

    with refused("ledger_transaction_has_entries"):
        await insert(writer, [transaction], [])


async def test_a_transaction_cannot_borrow_the_entries_of_another(writer: store.Connection) -> None:
    """Naming somebody else's first entry does not make it one's own."""
    first, entries = raw()
    second, _ = raw(of={"first_entry_id": first["first_entry_id"]})

    with refused("ledger_transaction_has_entries"):
        await insert(writer, [first, second], entries)


async def test_an_account_has_to_be_in_the_chart(writer: store.Connection) -> None:
    """A typing error is no account."""
    transaction, entries = raw()
    entries[1]["account_id"] = "merchant_pendling"

    with refused("ledger_entry_account_is_known"):
        await insert(writer, [transaction], entries)


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"amount": 0}, "ledger_entry_amount_is_positive"),
        ({"amount": -2599}, "ledger_entry_amount_is_positive"),
        ({"direction": "both"}, "ledger_entry_is_debit_or_credit"),
        ({"currency": "usd"}, "ledger_entry_currency_is_iso_4217"),
    ],
)
async def test_an_entry_is_well_formed(writer: store.Connection, change: Row, constraint: str) -> None:
    """Sides, signs and currencies are what they are called."""
    transaction, entries = raw()
    entries[0].update(change)

    with refused(constraint):
        await insert(writer, [transaction], entries)


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"type": "gift"}, "ledger_transaction_type_is_known"),
        ({"status": "pending"}, "ledger_hold_is_pending_and_all_else_is_posted"),
        ({"status": "reversed"}, "ledger_hold_is_pending_and_all_else_is_posted"),
        ({"type": "auth"}, "ledger_hold_is_pending_and_all_else_is_posted"),
        ({"type": "reversal"}, "ledger_reversal_names_what_it_reverses"),
        ({"reverses_type": "capture"}, "ledger_reversal_names_what_it_reverses"),
    ],
)
async def test_a_transaction_is_well_formed(writer: store.Connection, change: Row, constraint: str) -> None:
    """Type, status and what is reversed agree with each other."""
    transaction, entries = raw(of=change)

    with refused(constraint):
        await insert(writer, [transaction], entries)


async def test_an_operation_is_posted_once(writer: store.Connection) -> None:
    """The same capture cannot be booked twice, whoever tries."""
    transaction, entries = raw()
    again, more = raw(of={"reference_id": transaction["reference_id"]})
    await insert(writer, [transaction], entries)

    with refused("operation_is_posted_once"):
        await insert(writer, [again], more)


@pytest.mark.parametrize(
    "change", [{"amount": 601}, {"currency": "EUR"}, {"reference_id": new_id()}, {"merchant_id": new_id()}, {"livemode": True}]
)
async def test_a_reversal_mirrors_what_it_reverses(writer: store.Connection, change: dict[str, Any]) -> None:
    """Another amount, currency, operation, merchant or mode is no reversal of this refund."""
    operation = new_id()
    await store.post(writer, [captured(2599), posting("refunded", reference_id=operation, amount=600)])
    true_reversal = {"reference_id": operation, "amount": 600}

    with refused("ledger_reversal_mirrors_its_original"):
        await store.post(writer, [posting("refund_reversed", **(true_reversal | change))])
    await store.post(writer, [posting("refund_reversed", **true_reversal)])


async def test_a_reversal_is_not_reversed(writer: store.Connection) -> None:
    """There is no way to book something twice by way of its reversal's reversal."""
    operation = new_id()
    transaction, entries = raw("refunded", amount=600, of={"type": "reversal", "reverses_type": "reversal", "reference_id": operation})

    with refused("ledger_reversal_mirrors_its_original"):
        await insert(writer, [transaction], entries)


@pytest.mark.parametrize(
    ("table", "column", "trigger"),
    [
        ("ledger_transactions", "status", "ledger_transactions_are_append_only"),
        ("ledger_entries", "account_id", "ledger_entries_are_append_only"),
        ("ledger_accounts", "account_id", "ledger_accounts_are_append_only"),
    ],
)
@pytest.mark.parametrize("rewrite", ["UPDATE {table} SET {column} = {column}", "DELETE FROM {table}", "TRUNCATE {table}"])
async def test_the_books_are_not_rewritten(
    owner: store.Connection, writer: store.Connection, table: str, column: str, trigger: str, rewrite: str
) -> None:
    """The roles have no right to it, and the trigger stops even the owner."""
    await store.post(writer, [captured(2599)])

    with forbidden():
        await writer.execute(rewrite.format(table=table, column=column))
    with refused(trigger):
        await owner.execute(rewrite.format(table=table, column=column))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE wallets SET pending_balance = pending_balance + 1",
        "UPDATE wallets SET version = version",
        "DELETE FROM wallets",
        "INSERT INTO wallets (merchant_id, livemode, currency, pending_balance, available_balance) VALUES (gen_random_uuid(), false, 'USD', 1, 1)",
        "TRUNCATE wallets",
        "SET ROLE tollgate_ledger",
        "SELECT write_wallets()",
        "ALTER TABLE ledger_entries DISABLE TRIGGER ALL",
    ],
)
async def test_no_role_of_the_application_writes_wallets(any_database: str, statement: str) -> None:
    """Only the trigger does; a role can neither write itself, nor become the one that may, nor switch the trigger off."""
    for role in ("tollgate_writer", "tollgate_app", "tollgate_ops"):
        # A login that is a member of this one role, as an installation makes it: the owner's login could become any role.
        async with await psycopg.AsyncConnection.connect(any_database, autocommit=True) as connection:
            await connection.execute(
                "SELECT set_config('tollgate.merchant_id', %s, false), set_config('tollgate.livemode', 'false', false)", (MERCHANT,)
            )
            await connection.execute(f"SET SESSION AUTHORIZATION {role}")
            with forbidden():
                await connection.execute(statement)


async def test_a_partition_cannot_be_reached_past_its_triggers(owner: store.Connection, writer: store.Connection) -> None:
    """Statement triggers sit on the parent, so nobody may name a partition."""
    cursor = await owner.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'ledger_entries'::regclass")
    partitions = [name for (name,) in await cursor.fetchall()]

    assert len(partitions) >= 3
    for partition in partitions:
        with forbidden():
            await writer.execute(f"INSERT INTO {partition} SELECT * FROM ledger_entries")
        with forbidden():
            await writer.execute(f"SELECT * FROM {partition}")


async def test_temporary_tables_do_not_stand_in_for_the_real_ones(writer: store.Connection) -> None:
    """The trigger functions look nowhere but in the schema, so a look-alike in the session changes nothing."""
    await writer.execute("CREATE TEMP TABLE wallets AS SELECT * FROM public.wallets WITH NO DATA")
    await writer.execute("CREATE TEMP TABLE ledger_accounts AS SELECT 'my_own'::text AS account_id")

    transaction, entries = raw()
    entries[1]["account_id"] = "my_own"
    with refused("ledger_entry_account_is_known"):
        await insert(writer, [transaction], entries)
    await store.post(writer, [captured(2599)])

    cursor = await writer.execute("SELECT pending_balance FROM public.wallets WHERE merchant_id = %s::uuid", (MERCHANT,))
    assert await cursor.fetchone() == (2494,)


async def test_a_tenant_reads_its_own_books_and_writes_none(tenant: store.Connection, writer: store.Connection) -> None:
    """Row-level security shows one merchant and one mode; without a merchant there is an error, not an empty answer."""
    other = captured(700, merchant_id=new_id())
    await store.post(writer, [captured(2599), captured(100, livemode=True), other])

    trial = await balance.trial_balance(tenant)
    assert trial.currencies["USD"].accounts["merchant_pending"].credits == 2599
    assert await balances(tenant, other.merchant_id) == {}
    assert await store.entries_of_payment(tenant, payment_id=str(other.payment_id), merchant_id=other.merchant_id, livemode=False) == []
    with forbidden():
        await store.post(tenant, [captured(2599)])
    await tenant.execute("RESET tollgate.merchant_id")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        await balances(tenant)


async def test_the_chart_of_accounts_is_well_formed(owner: store.Connection) -> None:
    """An account has a normal side and an owner."""
    with refused("ledger_account_is_normally_debit_or_credit"):
        await owner.execute("INSERT INTO ledger_accounts VALUES ('one', 'left', 'merchant', '')")
    with refused("ledger_account_is_of_merchant_or_platform"):
        await owner.execute("INSERT INTO ledger_accounts VALUES ('one', 'debit', 'nobody', '')")


async def test_there_is_one_wallet_per_merchant_mode_and_currency(owner: store.Connection, writer: store.Connection) -> None:
    """Not even the owner makes a second one, over which a balance could be split."""
    await store.post(writer, [captured(2599)])

    with refused("one_wallet_per_merchant_mode_and_currency"):
        await owner.execute(
            "INSERT INTO wallets (merchant_id, livemode, currency, pending_balance, available_balance) VALUES (%s::uuid, false, 'USD', 0, 0)",
            (MERCHANT,),
        )
