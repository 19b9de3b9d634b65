"""What has to be true of a merchant's books after every flow, read from the database and from the provider's own book."""

from collections import Counter
from typing import Any

import psycopg

from app.core.ids import Id, typeid
from app.infra.db import connect
from app.ledger.balance import trial_balance, wallet_differences
from tests.flows.running import System

OPERATIONS = """
SELECT o.id, o.type, o.status, o.currency, o.amount
  FROM operations o
 WHERE o.merchant_id = %s::uuid
 ORDER BY o.requested_at, o.id"""

# What the ledger says went through the provider: captured is debited to clearing, returned is credited.
CLEARING = """
SELECT t.type, e.currency, sum(CASE e.direction WHEN 'debit' THEN e.amount ELSE -e.amount END)::bigint
  FROM ledger_entries e
  JOIN ledger_transactions t ON t.transaction_id = e.transaction_id
 WHERE e.merchant_id = %s::uuid AND e.account_id = 'customer_payment_clearing'
 GROUP BY t.type, e.currency"""

HOLDS = """
SELECT coalesce(sum(CASE e.direction WHEN 'debit' THEN e.amount ELSE -e.amount END), 0)::bigint
  FROM ledger_entries e
 WHERE e.merchant_id = %s::uuid AND e.account_id = 'authorization_holds'"""

STANDING = "SELECT coalesce(sum(amount), 0)::bigint FROM payments WHERE merchant_id = %s::uuid AND status = 'authorized'"

EFFECTS = {"sale": 1, "capture": 1, "refund": -1}


async def rows(system: System, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Read as an operator, who sees every merchant."""
    async with await connect(system.database_url, role="tollgate_ops") as connection:
        return await (await connection.execute(query.encode(), values or None)).fetchall()


async def assert_books_agree(system: System, merchant_id: Id) -> None:
    """Debits equal credits, wallets equal the ledger, holds equal what is authorized, and the provider's book equals ours."""
    async with await connect(system.database_url, role="tollgate_ops") as connection:
        assert (await trial_balance(connection)).balanced
        assert await wallet_differences(connection) == []
    ((held,),) = await rows(system, HOLDS, merchant_id)
    ((standing,),) = await rows(system, STANDING, merchant_id)
    assert held == standing
    await _assert_provider_agrees(system, merchant_id)


async def _assert_provider_agrees(system: System, merchant_id: Id) -> None:
    operations = await rows(system, OPERATIONS, merchant_id)
    ours = {typeid("op", id_): type_ for id_, type_, *_ in operations}
    effects = [line for line in system.journal() if line["reference"] in ours]
    assert max(Counter(line["reference"] for line in effects).values(), default=0) <= 1, effects
    moved: Counter[str] = Counter()
    for line in effects:
        moved[line["currency"]] += EFFECTS.get(line["kind"], 0) * line["amount"]
    booked: Counter[str] = Counter()
    for _type, currency, amount in await rows(system, CLEARING, merchant_id):
        booked[currency] += amount
    assert {currency: amount for currency, amount in booked.items() if amount} == {
        currency: amount for currency, amount in moved.items() if amount
    }


async def open_operations(system: System, merchant_id: Id) -> list[tuple[Any, ...]]:
    return [row for row in await rows(system, OPERATIONS, merchant_id) if row[2] in ("requested", "unknown")]


async def as_owner(system: System, statement: str, *values: Any) -> None:
    """What no role of the application may do, such as letting time pass for a stored key."""
    async with await psycopg.AsyncConnection.connect(system.database_url, autocommit=True) as connection:
        await connection.execute(statement.encode(), values)
