"""Postings as the payments make them, and raw rows as an attacker would."""

import json
from collections.abc import Sequence
from typing import Any

from app.core.clock import now, rfc3339
from app.core.ids import Id, new_id
from app.ledger.rules import Event, entries_for, fee
from app.ledger.store import Connection, Posting

Row = dict[str, Any]

MERCHANT = "0190a5dac0007000800000000000000a"

RAW = """
WITH transactions AS (
    INSERT INTO ledger_transactions SELECT * FROM json_populate_recordset(NULL::ledger_transactions, %s::json)
)
INSERT INTO ledger_entries SELECT * FROM json_populate_recordset(NULL::ledger_entries, %s::json)
"""


def posting(event: Event, **changes: Any) -> Posting:
    """A fact about a payment of a merchant in test mode; the figures are up to the caller."""
    given: Row = {
        "merchant_id": MERCHANT,
        "livemode": False,
        "payment_id": new_id(),
        "reference_id": new_id(),
        "currency": "USD",
        "booked_at": now(),
    }
    return Posting(event=event, **(given | changes))


def captured(amount: int, **changes: Any) -> Posting:
    return posting("captured", amount=amount, fee=fee(amount), **changes)


def raw(event: Event = "captured", *, of: Row | None = None, **parts: int) -> tuple[Row, list[Row]]:
    """A transaction and its entries as rows that the database accepts, for a test to spoil; `of` changes the transaction."""
    parts = parts or {"amount": 2599, "fee": 105}
    transaction: Row = {
        "transaction_id": new_id(),
        "merchant_id": MERCHANT,
        "livemode": False,
        "type": "capture",
        "reference_id": new_id(),
        "payment_id": new_id(),
        "reverses_type": None,
        "status": "posted",
        "created_at": rfc3339(now()),
        **(of or {}),
    }
    entries = [
        {
            "entry_id": new_id(),
            "transaction_id": transaction["transaction_id"],
            "merchant_id": MERCHANT,
            "livemode": False,
            "account_id": entry.account_id,
            "direction": entry.direction,
            "amount": entry.amount,
            "currency": "USD",
            "created_at": transaction["created_at"],
        }
        for entry in entries_for(event, **parts)
    ]
    return {"first_entry_id": entries[0]["entry_id"], **transaction}, entries


async def insert(connection: Connection, transactions: Sequence[Row], entries: Sequence[Row]) -> None:
    """Both tables in one statement, as the ledger wants it and as an attacker would have to."""
    await connection.execute(RAW, (json.dumps(transactions), json.dumps(entries)))


async def balances(connection: Connection, merchant_id: Id = MERCHANT, *, livemode: bool = False) -> dict[str, tuple[int, int]]:
    """Pending and available by currency."""
    cursor = await connection.execute(
        "SELECT currency, pending_balance, available_balance FROM wallets WHERE merchant_id = %s::uuid AND livemode = %s",
        (merchant_id, livemode),
    )
    return {currency: (pending, available) for currency, pending, available in await cursor.fetchall()}
