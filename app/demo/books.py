"""What an operator sees after the demo: the merchant's wallet, the trial balance, and the provider's own book beside ours."""

from typing import Any, NamedTuple

import aiohttp
import msgspec

from app.core.ids import parse_typeid
from app.demo.story import AMOUNT, CURRENCY, FEE, REFUNDED, Story
from app.infra.db import connect
from app.ledger.balance import TrialBalance, trial_balance, wallet_differences
from app.ledger.store import Wallet, wallets

Json = dict[str, Any]


class Books(NamedTuple):
    wallets: list[Wallet]
    balance: TrialBalance
    journal: list[Json]


async def read(story: Story, session: aiohttp.ClientSession, *, database_url: str, sandbox_url: str) -> Books:
    """Differences go to `story.wrong`."""
    merchant_id = parse_typeid("mer", story.payment["merchant_id"])
    connection = await connect(database_url, role="tollgate_ops")
    try:
        owed = await wallets(connection, merchant_id=merchant_id, livemode=False)
        balance = await trial_balance(connection)
        differences = await wallet_differences(connection)
    finally:
        await connection.close()
    async with session.get(f"{sandbox_url}/journal") as answer:
        journal = [msgspec.json.decode(line) for line in (await answer.text()).splitlines()]
    in_wallet = {wallet.currency: wallet.pending_balance + wallet.available_balance for wallet in owed}
    story.expect("what the merchant is owed", found=in_wallet, due={CURRENCY: AMOUNT - FEE - REFUNDED})
    story.expect("the trial balance", found=balance.balanced, due=True)
    story.expect("the number of wallets that differ from the ledger", found=len(differences), due=0)
    story.expect(
        "the provider's own book",
        found=[(one["kind"], one["amount"]) for one in journal],
        due=[("sale", AMOUNT), ("refund", REFUNDED)],
    )
    return Books(owed, balance, journal)
