"""Posting to the ledger and reading it. Wallets are written by the database, from the entries."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg import AsyncConnection

from app.core.ids import Id, new_id
from app.ledger.rules import RULES, Direction, Event, entries_for

Connection = AsyncConnection[Any]

_encode = msgspec.json.Encoder().encode


class Posting(msgspec.Struct, frozen=True, kw_only=True):
    """One fact to be booked. `reference_id` is the operation that made it: the same type is posted once for it, ever.

    `amount`, `fee` and `hold` are minor units; which of them a fact has stands in `rules.RULES`.
    """

    event: Event
    merchant_id: Id
    livemode: bool
    payment_id: Id | None
    reference_id: Id
    currency: str
    booked_at: datetime
    amount: int = 0
    fee: int = 0
    hold: int = 0


class TransactionRow(msgspec.Struct):
    """A row of `ledger_transactions` as it is posted."""

    transaction_id: Id
    merchant_id: Id
    livemode: bool
    type: str
    reference_id: Id
    payment_id: Id | None
    reverses_type: str | None
    status: str
    first_entry_id: Id
    created_at: datetime


class EntryRow(msgspec.Struct):
    """A row of `ledger_entries`."""

    entry_id: Id
    transaction_id: Id
    merchant_id: Id
    livemode: bool
    account_id: str
    direction: Direction
    amount: int
    currency: str
    created_at: datetime


class BookedEntry(msgspec.Struct, frozen=True):
    """An entry with its transaction, as a payment's timeline shows it."""

    transaction_id: Id
    type: str
    status: str
    reference_id: Id
    entry_id: Id
    account_id: str
    direction: Direction
    amount: int
    currency: str
    created_at: datetime


class Wallet(msgspec.Struct, frozen=True):
    wallet_id: Id
    currency: str
    pending_balance: int
    available_balance: int
    version: int


INSERT_TRANSACTIONS = """
    INSERT INTO ledger_transactions
           (transaction_id, merchant_id, livemode, type, reference_id, payment_id, reverses_type, status, first_entry_id, created_at)
    SELECT transaction_id, merchant_id, livemode, type, reference_id, payment_id, reverses_type, status, first_entry_id, created_at
      FROM json_populate_recordset(NULL::ledger_transactions, %s::json)
     ORDER BY reference_id, type"""

INSERT_ENTRIES = """
    INSERT INTO ledger_entries
           (entry_id, transaction_id, merchant_id, livemode, account_id, direction, amount, currency, created_at)
    SELECT entry_id, transaction_id, merchant_id, livemode, account_id, direction, amount, currency, created_at
      FROM json_populate_recordset(NULL::ledger_entries, %s::json)"""

# One statement, because the triggers want the entries in the statement of their transaction.
POST = f"WITH posted AS ({INSERT_TRANSACTIONS}) {INSERT_ENTRIES}"

ENTRIES_OF_PAYMENT = """
SELECT t.transaction_id, t.type, t.status, t.reference_id, e.entry_id, e.account_id, e.direction, e.amount, e.currency, e.created_at
  FROM ledger_journal t
  JOIN ledger_entries e ON e.transaction_id = t.transaction_id AND e.merchant_id = t.merchant_id AND e.livemode = t.livemode
 WHERE t.payment_id = %(payment_id)s::uuid
   AND t.merchant_id = %(merchant_id)s::uuid
   AND t.livemode = %(livemode)s
 ORDER BY t.created_at, e.entry_id
"""

WALLETS = """
SELECT wallet_id, currency, pending_balance, available_balance, version
  FROM wallets
 WHERE merchant_id = %(merchant_id)s::uuid
   AND livemode = %(livemode)s
 ORDER BY currency
"""


async def post(connection: Connection, postings: Sequence[Posting]) -> None:
    """Book all of `postings` in one statement; sends nothing when there are none.

    Raises psycopg.errors.UniqueViolation (operation_is_posted_once) when an operation was booked before.
    """
    if postings:
        transactions, entries = booked_rows(postings)
        await connection.execute(POST, (_encode(transactions).decode(), _encode(entries).decode()), prepare=True)


def booked_rows(postings: Sequence[Posting]) -> tuple[list[TransactionRow], list[EntryRow]]:
    """The rows of `INSERT_TRANSACTIONS` and `INSERT_ENTRIES`, which have to go with one statement."""
    transactions: list[TransactionRow] = []
    entries: list[EntryRow] = []
    for posting in postings:
        rule = RULES[posting.event]
        transaction_id = new_id()
        booked = entries_for(posting.event, amount=posting.amount, fee=posting.fee, hold=posting.hold)
        # Sorted, so that reading by id gives the order of the rules' legs: ids of one millisecond come in any order.
        entry_ids = sorted(new_id() for _ in booked)
        made = [
            EntryRow(
                entry_id=entry_id,
                transaction_id=transaction_id,
                merchant_id=posting.merchant_id,
                livemode=posting.livemode,
                account_id=entry.account_id,
                direction=entry.direction,
                amount=entry.amount,
                currency=posting.currency,
                created_at=posting.booked_at,
            )
            for entry_id, entry in zip(entry_ids, booked, strict=True)
        ]
        entries.extend(made)
        transactions.append(
            TransactionRow(
                transaction_id=transaction_id,
                merchant_id=posting.merchant_id,
                livemode=posting.livemode,
                type=rule.type,
                reference_id=posting.reference_id,
                payment_id=posting.payment_id,
                reverses_type=rule.reverses_type,
                status="pending" if rule.type == "auth" else "posted",
                first_entry_id=made[0].entry_id,
                created_at=posting.booked_at,
            )
        )
    return transactions, entries


async def entries_of_payment(connection: Connection, *, payment_id: Id, merchant_id: Id, livemode: bool) -> list[BookedEntry]:
    """In the order in which they were made; empty where the payment is another merchant's or another mode's."""
    cursor = await connection.execute(ENTRIES_OF_PAYMENT, {"payment_id": payment_id, "merchant_id": merchant_id, "livemode": livemode})
    return [BookedEntry(*row) for row in await cursor.fetchall()]


async def wallets(connection: Connection, *, merchant_id: Id, livemode: bool) -> list[Wallet]:
    cursor = await connection.execute(WALLETS, {"merchant_id": merchant_id, "livemode": livemode})
    return [Wallet(*row) for row in await cursor.fetchall()]
