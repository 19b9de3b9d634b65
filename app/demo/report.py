"""Prints the story as tables that answer by themselves: what was taken, what it cost, who is owed what, and whether the books balance."""

import re
import sys
from collections.abc import Iterable
from datetime import datetime
from io import TextIOWrapper

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.core.clock import parse_rfc3339
from app.core.money import format_minor
from app.demo.books import Books
from app.demo.story import CURRENCY, Json, Story, Webhook

# Where the output is no terminal: wide enough for every line.
_WIDTH_OF_FILES = 160
_ID = re.compile(r"\b([a-z]+)_[0-9a-z]{20}([0-9a-z]{6})\b")
_NUMBERS = {"debit", "credit", "pending", "available", "together", "at, ms", CURRENCY}


def console() -> Console:
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal that knows no arrows shall not end the demo.
        sys.stdout.reconfigure(errors="replace")
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDTH_OF_FILES)


def show(out: Console, story: Story, books: Books | None) -> None:
    """As much of it as there is."""
    _print(out, "What the merchant's server asked", ("step", "request", "answer"), _steps(story))
    if story.payment:
        title = f"The payment {story.payment['id']}, now {story.payment['status']}"
        _print(out, title, ("", CURRENCY, "how it is known"), _amounts(story.payment))
    if story.timeline:
        rows = _timeline(story)
        _print(out, "Everything that happened to it, in order", ("at, ms", "kind", "what", "more"), rows)
    if story.webhooks:
        _print(out, "Webhooks", ("type", "event", "delivered", "signature"), _webhooks(story.webhooks))
    if books is not None:
        _show_books(out, books)
    _conclude(out, story, books)


def _show_books(out: Console, books: Books) -> None:
    owed = [
        (wallet.currency, *(_money(amount, wallet.currency) for amount in (wallet.pending_balance, wallet.available_balance)),
         _money(wallet.pending_balance + wallet.available_balance, wallet.currency))
        for wallet in books.wallets
    ]  # fmt: skip
    _print(out, "What the merchant is owed", ("currency", "pending", "available", "together"), owed)
    for currency, one in books.balance.currencies.items():
        lines = [(name, _money(row.debits, currency), _money(row.credits, currency)) for name, row in one.accounts.items()]
        total = ("total", _money(one.debits, currency), _money(one.credits, currency))
        _print(out, f"Trial balance, {currency}", ("account", "debit", "credit"), lines, total=total)


def _conclude(out: Console, story: Story, books: Books | None) -> None:
    if story.wrong:
        out.print(Text("This is not as it should be:", style="bold red"))
        for line in story.wrong:
            out.print(f"  - {line}", markup=False)
        return
    payment = story.payment
    good = sum(1 for one in story.webhooks if one.verified)
    owed = sum(wallet.pending_balance + wallet.available_balance for wallet in books.wallets) if books is not None else 0
    parts = [
        f"{what} {_money(payment[name])}"
        for what, name in (("captured", "amount_captured"), ("refunded", "amount_refunded"), ("fee", "fee"))
    ]
    out.print(Text(f"{', '.join(parts)}: the merchant is owed {_money(owed)} {CURRENCY}.", style="bold"))
    out.print(f"{good} of {len(story.webhooks)} webhooks arrived and verified. Debits equal credits.", style="bold")


def _steps(story: Story) -> Iterable[tuple[str, ...]]:
    for number, step in enumerate(story.steps, 1):
        # The answers have the ids in full.
        yield f"{number}. {step.what}", _ID.sub(r"\1_…\2", step.request), step.answer


def _amounts(payment: Json) -> Iterable[tuple[str, ...]]:
    card, operation = payment["payment_method"], payment["latest_operation"]
    yield "authorized", _money(payment["amount"]), f"{card['brand']} …{card['last4']}, {payment['provider']} {payment['provider_ref']}"
    yield "captured", _money(payment["amount_captured"]), "in the same step as the authorization (a sale)"
    yield "refunded", _money(payment["amount_refunded"]), f"latest operation: {operation['type']} {operation['status']}"
    yield "fee", _money(payment["fee"]), "2.9 % + 0.30 of what was captured, half up; kept when money is given back"
    left = payment["amount_captured"] - payment["amount_refunded"] - payment["fee"]
    yield "left for the merchant", _money(left), "captured - refunded - fee"


def _timeline(story: Story) -> Iterable[tuple[str, ...]]:
    begin = _instant(story.timeline[0])
    types = {one.event["id"]: one.event["type"] for one in story.webhooks}
    for entry in story.timeline:
        passed = round((_instant(entry) - begin).total_seconds() * 1000)
        yield str(passed), entry["kind"].replace("_", " "), entry["what"], _more(entry, types)


def _more(entry: Json, types: dict[str, str]) -> str:
    detail = entry["detail"]
    match entry["kind"]:
        case "event":
            return f"{detail['from']} → {detail['to']}, by {_short(entry['actor'] or 'nobody')}"
        case "provider_call":
            return f"{_money(detail['amount'])} {detail['currency']} at {detail['provider']}, answered in {detail['latency_ms']} ms"
        case "ledger":
            return f"{_money(detail['amount'])} {detail['currency']}, {detail['type']}"
        case _:
            return f"{types.get(detail['event_id'], detail['event_id'])}: {detail['status_code']} in {detail['latency_ms']} ms"


def _webhooks(webhooks: Iterable[Webhook]) -> Iterable[tuple[str, ...]]:
    for one in webhooks:
        yield one.event["type"], one.event["id"], one.delivered, "verified" if one.verified else "NOT VERIFIED"


def _print(out: Console, title: str, heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, total: tuple[str, ...] = ()) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", show_footer=bool(total))
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if head in _NUMBERS else "left", footer=total[place] if total else "", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)
    out.print()


def _money(amount: int, currency: str = CURRENCY) -> str:
    return format_minor(currency, amount)


def _instant(entry: Json) -> datetime:
    return parse_rfc3339(entry["at"])


def _short(actor: str) -> str:
    """An id is long, and in a timeline its kind is enough."""
    return actor.partition(":")[0].replace("_", " ")
