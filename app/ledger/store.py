"""Posting to the ledger and reading it. Wallets are written by the database, from the entries."""

from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate, chain
from typing import Any

import msgspec
from psycopg import AsyncConnection

from app.core.ids import Id, new_id
from app.ledger.rules import RULES, Direction, Event, entries_for

Connection = AsyncConnection[Any]


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


# One statement, because the triggers want the entries in the statement of their transaction. `entry_of` counts from 1 and says
# which posting an entry belongs to.
POST = """
WITH posted AS (
    INSERT INTO ledger_transactions
           (transaction_id, merchant_id, livemode, type, reference_id, payment_id, reverses_type, status, first_entry_id, created_at)
    SELECT p.transaction_id, p.merchant_id, p.livemode, p.type, p.reference_id, p.payment_id, p.reverses_type,
           CASE p.type WHEN 'auth' THEN 'pending' ELSE 'posted' END, p.first_entry_id, p.booked_at
      FROM unnest(%(transaction_id)s::uuid[], %(merchant_id)s::uuid[], %(livemode)s::boolean[], %(type)s::text[],
                  %(reference_id)s::uuid[], %(payment_id)s::uuid[], %(reverses_type)s::text[], %(first_entry_id)s::uuid[],
                  %(booked_at)s::timestamptz[])
           AS p (transaction_id, merchant_id, livemode, type, reference_id, payment_id, reverses_type, first_entry_id, booked_at)
     ORDER BY p.reference_id, p.type
)
INSERT INTO ledger_entries
       (entry_id, transaction_id, merchant_id, livemode, account_id, direction, amount, currency, created_at)
SELECT e.entry_id,
       (%(transaction_id)s::uuid[])[e.entry_of],
       (%(merchant_id)s::uuid[])[e.entry_of],
       (%(livemode)s::boolean[])[e.entry_of],
       e.account_id,
       e.direction,
       e.amount,
       (%(currency)s::text[])[e.entry_of],
       (%(booked_at)s::timestamptz[])[e.entry_of]
  FROM unnest(%(entry_id)s::uuid[], %(entry_of)s::integer[], %(account_id)s::text[], %(direction)s::text[], %(amount)s::bigint[])
       AS e (entry_id, entry_of, account_id, direction, amount)
"""

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
    if not postings:
        return
    booked = [entries_for(one.event, amount=one.amount, fee=one.fee, hold=one.hold) for one in postings]
    # Sorted, so that reading by id gives the order of the rules' legs: ids of one millisecond come in any order.
    entry_ids = sorted(new_id() for entries in booked for _ in entries)
    entry_of = [position for position, entries in enumerate(booked, start=1) for _ in entries]
    first_of = [0, *accumulate(len(entries) for entries in booked[:-1])]
    account_ids, directions, amounts = (list(column) for column in zip(*chain.from_iterable(booked), strict=True))
    await connection.execute(
        POST,
        {
            "transaction_id": [new_id() for _ in postings],
            "merchant_id": [posting.merchant_id for posting in postings],
            "livemode": [posting.livemode for posting in postings],
            "type": [RULES[posting.event].type for posting in postings],
            "reference_id": [posting.reference_id for posting in postings],
            "payment_id": [posting.payment_id for posting in postings],
            "reverses_type": [RULES[posting.event].reverses_type for posting in postings],
            "first_entry_id": [entry_ids[first] for first in first_of],
            "currency": [posting.currency for posting in postings],
            "booked_at": [posting.booked_at for posting in postings],
            "entry_id": entry_ids,
            "entry_of": entry_of,
            "account_id": account_ids,
            "direction": directions,
            "amount": amounts,
        },
    )


async def entries_of_payment(connection: Connection, *, payment_id: Id, merchant_id: Id, livemode: bool) -> list[BookedEntry]:
    """In the order in which they were made; empty where the payment is another merchant's or another mode's."""
    cursor = await connection.execute(ENTRIES_OF_PAYMENT, {"payment_id": payment_id, "merchant_id": merchant_id, "livemode": livemode})
    return [BookedEntry(*row) for row in await cursor.fetchall()]


async def wallets(connection: Connection, *, merchant_id: Id, livemode: bool) -> list[Wallet]:
    cursor = await connection.execute(WALLETS, {"merchant_id": merchant_id, "livemode": livemode})
    return [Wallet(*row) for row in await cursor.fetchall()]
