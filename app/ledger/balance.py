"""Do the books agree with themselves: the trial balance, and wallets against the entries they come from."""

from typing import Any

import msgspec
from psycopg import AsyncConnection

from app.core.ids import Id

Connection = AsyncConnection[Any]


class AccountBalance(msgspec.Struct, frozen=True):
    """Sums in minor units; `balance` is taken on the account's normal side, so it is positive where all is as usual."""

    normal_side: str
    debits: int
    credits: int
    balance: int


class CurrencyBalance(msgspec.Struct, frozen=True):
    debits: int
    credits: int
    accounts: dict[str, AccountBalance]


class TrialBalance(msgspec.Struct, frozen=True):
    balanced: bool
    currencies: dict[str, CurrencyBalance]


class WalletDifference(msgspec.Struct, frozen=True):
    """A wallet that is not what its entries make: this cannot happen, and is looked for all the same."""

    merchant_id: Id
    livemode: bool
    currency: str
    pending_in_wallet: int
    pending_in_ledger: int
    available_in_wallet: int
    available_in_ledger: int


TRIAL_BALANCE = """
SELECT e.currency,
       e.account_id,
       a.normal_side,
       sum(e.amount) FILTER (WHERE e.direction = 'debit') AS debits,
       sum(e.amount) FILTER (WHERE e.direction = 'credit') AS credits
  FROM ledger_entries e
  JOIN ledger_accounts a ON a.account_id = e.account_id
 WHERE %(livemode)s::boolean IS NULL OR e.livemode = %(livemode)s::boolean
 GROUP BY e.currency, e.account_id, a.normal_side
 ORDER BY e.currency, e.account_id
"""

WALLET_DIFFERENCES = """
WITH booked AS (
    SELECT merchant_id,
           livemode,
           currency,
           sum(CASE WHEN account_id = 'merchant_available' THEN 0 WHEN direction = 'credit' THEN amount ELSE -amount END) AS pending,
           sum(CASE WHEN account_id <> 'merchant_available' THEN 0 WHEN direction = 'credit' THEN amount ELSE -amount END) AS available
      FROM ledger_entries
     WHERE account_id IN ('merchant_pending', 'merchant_fee_expense', 'merchant_available')
     GROUP BY merchant_id, livemode, currency
)
SELECT coalesce(w.merchant_id, b.merchant_id),
       coalesce(w.livemode, b.livemode),
       coalesce(w.currency, b.currency),
       coalesce(w.pending_balance, 0),
       coalesce(b.pending, 0)::bigint,
       coalesce(w.available_balance, 0),
       coalesce(b.available, 0)::bigint
  FROM wallets w
  FULL JOIN booked b ON b.merchant_id = w.merchant_id AND b.livemode = w.livemode AND b.currency = w.currency
 WHERE (w.pending_balance, w.available_balance) IS DISTINCT FROM (b.pending::bigint, b.available::bigint)
 ORDER BY 1, 2, 3
"""


async def trial_balance(connection: Connection, *, livemode: bool | None = None) -> TrialBalance:
    """Over all merchants that the connection's role may see; one mode, or both together. Reads every entry: for operators."""
    cursor = await connection.execute(TRIAL_BALANCE, {"livemode": livemode})
    found: dict[str, dict[str, AccountBalance]] = {}
    for currency, account_id, normal_side, debits, credits_ in await cursor.fetchall():
        debit, credit = int(debits or 0), int(credits_ or 0)
        balance = debit - credit if normal_side == "debit" else credit - debit
        found.setdefault(currency, {})[account_id] = AccountBalance(normal_side, debit, credit, balance)
    currencies = {
        currency: CurrencyBalance(
            debits=sum(account.debits for account in accounts.values()),
            credits=sum(account.credits for account in accounts.values()),
            accounts=accounts,
        )
        for currency, accounts in found.items()
    }
    return TrialBalance(all(one.debits == one.credits for one in currencies.values()), currencies)


async def wallet_differences(connection: Connection) -> list[WalletDifference]:
    """Empty, or something broke an invariant. Reads every entry of merchants: for operators and the crash check."""
    cursor = await connection.execute(WALLET_DIFFERENCES)
    return [WalletDifference(*row) for row in await cursor.fetchall()]
