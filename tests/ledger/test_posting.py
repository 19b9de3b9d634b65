import asyncio
import random

import psycopg
import pytest

from app.core.clock import now
from app.core.ids import new_id
from app.infra.db import connect
from app.ledger import balance, store
from tests.ledger.builders import MERCHANT, balances, captured, posting


async def test_a_captured_payment_of_25_99_leaves_the_merchant_24_94(writer: store.Connection, operator: store.Connection) -> None:
    """R086 in the database: four entries, a wallet that shows what the merchant is owed, books that balance."""
    sale = captured(2599)

    await store.post(writer, [sale])

    booked = await store.entries_of_payment(writer, payment_id=str(sale.payment_id), merchant_id=MERCHANT, livemode=False)
    assert [(one.account_id, one.direction, one.amount) for one in booked] == [
        ("customer_payment_clearing", "debit", 2599),
        ("merchant_pending", "credit", 2599),
        ("merchant_fee_expense", "debit", 105),
        ("platform_revenue", "credit", 105),
    ]
    assert {(one.type, one.status, one.reference_id, one.currency) for one in booked} == {("capture", "posted", sale.reference_id, "USD")}
    assert await balances(operator) == {"USD": (2494, 0)}
    trial = await balance.trial_balance(operator)
    assert trial.balanced
    assert (trial.currencies["USD"].debits, trial.currencies["USD"].credits) == (2704, 2704)
    assert trial.currencies["USD"].accounts["platform_revenue"].balance == 105


async def test_a_hold_moves_no_money_and_is_gone_after_the_capture(writer: store.Connection, operator: store.Connection) -> None:
    """An authorization changes no wallet; capturing a part of it lets go of the whole hold in the same transaction."""
    payment_id = new_id()

    await store.post(writer, [posting("authorized", payment_id=payment_id, hold=2599)])
    assert await balances(operator) == {}
    await store.post(writer, [captured(1000, payment_id=payment_id, hold=2599)])

    booked = await store.entries_of_payment(writer, payment_id=payment_id, merchant_id=MERCHANT, livemode=False)
    assert [(one.type, one.status) for one in booked] == [("auth", "reversed")] * 2 + [("capture", "posted")] * 6
    accounts = (await balance.trial_balance(operator)).currencies["USD"].accounts
    assert accounts["authorization_holds"].balance == accounts["authorization_holds_contra"].balance == 0
    assert await balances(operator) == {"USD": (1000 - 59, 0)}


async def test_a_hold_stands_as_pending_until_it_is_released(writer: store.Connection, operator: store.Connection) -> None:
    """A void or an expiry takes the hold back and touches nothing else."""
    payment_id = new_id()

    await store.post(writer, [posting("authorized", payment_id=payment_id, hold=2599)])
    held = await store.entries_of_payment(writer, payment_id=payment_id, merchant_id=MERCHANT, livemode=False)
    await store.post(writer, [posting("released", payment_id=payment_id, hold=2599)])
    after = await store.entries_of_payment(writer, payment_id=payment_id, merchant_id=MERCHANT, livemode=False)

    assert {one.status for one in held} == {"pending"}
    assert [(one.type, one.status) for one in after] == [("auth", "reversed")] * 2 + [("release", "posted")] * 2
    assert (await balance.trial_balance(operator)).currencies["USD"].accounts["authorization_holds"].balance == 0


async def test_a_refund_keeps_the_fee_and_may_drive_the_balance_below_zero(writer: store.Connection, operator: store.Connection) -> None:
    """The payer gets back what was captured, the platform keeps its fee, the merchant owes it."""
    payment_id = new_id()

    await store.post(writer, [captured(2599, payment_id=payment_id)])
    await store.post(writer, [posting("refunded", payment_id=payment_id, amount=2599)])

    assert await balances(operator) == {"USD": (-105, 0)}
    accounts = (await balance.trial_balance(operator)).currencies["USD"].accounts
    assert (accounts["customer_payment_clearing"].balance, accounts["platform_revenue"].balance) == (0, 105)


async def test_a_refund_that_fails_later_is_reversed_not_edited(writer: store.Connection, operator: store.Connection) -> None:
    """The refund stays in the books beside its mirror image, and reads as reversed."""
    payment_id, operation = new_id(), new_id()
    await store.post(writer, [captured(2599, payment_id=payment_id)])
    await store.post(writer, [posting("refunded", payment_id=payment_id, reference_id=operation, amount=600)])

    await store.post(writer, [posting("refund_reversed", payment_id=payment_id, reference_id=operation, amount=600)])

    booked = await store.entries_of_payment(writer, payment_id=payment_id, merchant_id=MERCHANT, livemode=False)
    assert [(one.type, one.status) for one in booked[4::2]] == [("refund", "reversed"), ("reversal", "posted")]
    assert await balances(operator) == {"USD": (2494, 0)}


async def test_money_that_no_rule_admits_waits_in_suspense(writer: store.Connection, operator: store.Connection) -> None:
    """A charge we had given up on is booked to nobody, and sending it back empties the account again."""
    await store.post(writer, [posting("suspense_received", amount=2599)])
    held = (await balance.trial_balance(operator)).currencies["USD"].accounts["psp_suspense"].balance
    await store.post(writer, [posting("suspense_returned", amount=2599)])

    assert held == 2599
    assert (await balance.trial_balance(operator)).currencies["USD"].accounts["psp_suspense"].balance == 0
    assert await balances(operator) == {}


async def test_a_batch_posts_many_merchants_modes_and_currencies_at_once(writer: store.Connection, operator: store.Connection) -> None:
    """One statement, many targets, several of them the same wallet: each wallet gets its own sum."""
    other = new_id()
    batch = [
        captured(2599),
        captured(2599),
        captured(1000, currency="JPY"),
        captured(5000, livemode=True),
        captured(700, merchant_id=other),
        posting("authorized", hold=100),
        posting("refunded", amount=99),
    ]

    await store.post(writer, batch)

    assert await balances(operator) == {"USD": (2 * 2494 - 99, 0), "JPY": (1000 - 59, 0)}
    assert await balances(operator, livemode=True) == {"USD": (5000 - 175, 0)}
    assert await balances(operator, other) == {"USD": (700 - 50, 0)}
    assert (await balance.trial_balance(operator, livemode=True)).currencies["USD"].debits == 5175
    assert await balance.wallet_differences(operator) == []


async def test_an_empty_batch_sends_nothing(writer: store.Connection) -> None:
    """A settlement in which nothing moved has nothing to book."""
    await store.post(writer, [])

    assert writer.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_the_same_operation_twice_in_one_statement_is_refused_as_a_whole(
    writer: store.Connection, operator: store.Connection
) -> None:
    """A duplicate target books neither of the two, and nothing of the rest of its batch."""
    sale = captured(2599)

    with pytest.raises(psycopg.errors.UniqueViolation, match="operation_is_posted_once"):
        await store.post(writer, [sale, captured(100), sale])

    assert await balances(operator) == {}
    assert (await balance.trial_balance(operator)).currencies == {}


async def test_wallets_equal_the_ledger_after_concurrent_posts(any_database: str, operator: store.Connection) -> None:
    """Batches over the same merchants in any order neither deadlock nor lose a cent."""
    merchants = [new_id() for _ in range(6)]
    chance = random.Random(7)

    async def till() -> int:
        connection = await connect(any_database, role="tollgate_writer", lane=False)
        booked = 0
        for _ in range(12):
            batch = [
                captured(chance.randint(1, 10_000), merchant_id=merchant, currency=chance.choice(["USD", "EUR"]))
                for merchant in chance.choices(merchants, k=8)
            ]
            await store.post(connection, batch)
            booked += sum(one.amount - one.fee for one in batch)
        await connection.close()
        return booked

    booked = sum(await asyncio.gather(*[till() for _ in range(6)]))

    owed = [await balances(operator, merchant) for merchant in merchants]
    assert sum(pending for wallet in owed for pending, _ in wallet.values()) == booked
    assert await balance.wallet_differences(operator) == []
    assert (await balance.trial_balance(operator)).balanced


async def test_a_wallet_shows_its_version_and_only_its_own_merchant(writer: store.Connection) -> None:
    """Every change of a wallet is a step of its version; another merchant has none."""
    await store.post(writer, [captured(2599)])
    await store.post(writer, [captured(2599), captured(2599)])

    (wallet,) = await store.wallets(writer, merchant_id=MERCHANT, livemode=False)
    assert (wallet.currency, wallet.pending_balance, wallet.available_balance, wallet.version) == ("USD", 3 * 2494, 0, 2)
    assert await store.wallets(writer, merchant_id=new_id(), livemode=False) == []
    assert await store.wallets(writer, merchant_id=MERCHANT, livemode=True) == []


async def test_a_wallet_that_is_not_its_ledger_is_found(owner: store.Connection, operator: store.Connection) -> None:
    """With the trigger taken away the check reports the merchant, so the check can fail."""
    await owner.execute('ALTER TABLE ledger_entries DISABLE TRIGGER "wallets_follow_the_ledger"')

    await store.post(owner, [captured(2599, booked_at=now())])

    (difference,) = await balance.wallet_differences(operator)
    assert (difference.merchant_id, difference.pending_in_wallet, difference.pending_in_ledger) == (MERCHANT, 0, 2494)
