"""Prints the pages of the handbook that the code already knows: `python docs/generate.py`. A test keeps them equal."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# As a script, Python looks for modules beside this file.
sys.path.insert(0, str(FOLDER.parent))

from app.commands.describe import ALL_MACHINES  # noqa: E402
from app.core.errors import ERRORS  # noqa: E402
from app.infra.telemetry.catalog import FIGURES  # noqa: E402
from app.infra.telemetry.exposition import OWN  # noqa: E402
from app.ledger.rules import FEE_FIXED, FEE_PER_MILLE, RULES  # noqa: E402
from app.main import GAUGES  # noqa: E402
from app.settings import VARIABLES  # noqa: E402

PRINTED = "<!-- Printed from the code by docs/generate.py. -->"


def errors() -> str:
    rows = [
        (f'<a id="{error.code}"></a>`{error.code}`', str(error.http_status), _yes(error.retryable), error.__doc__ or "", error.remedy)
        for error in ERRORS
    ]
    return _page(
        "Errors",
        "Every error is an `application/problem+json` document (RFC 9457) with one of these codes. *Retry* means that the same request may "
        "succeed later; with the same idempotency key a retry never does a thing twice. 400 is malformed, 409 is not now or not any more, "
        "422 is never like this. For `payment_declined` the issuer decides whether to retry: read `retryable` in the answer.",
        _table(("code", "status", "retry", "what happened", "what to do"), rows),
    )


def states() -> str:
    chapters = [f"## {machine.name}\n\n```mermaid\n{machine.to_mermaid()}```\n" for machine in ALL_MACHINES]
    return _page(
        "Statuses",
        "Status says where an object is; `failure` and the `…_reason` members say why. An arrow is an event; an arrow that comes back to "
        "its status is a change that keeps it and still has its version and its event. The database refuses every move that is not here.",
        "\n".join(chapters),
    )


def settings() -> str:
    rows = [
        (f"`{variable.name}`", variable.shown_default, variable.meaning + (" (secret)" if variable.secret else ""))
        for variable in VARIABLES
    ]
    return _page(
        "Settings",
        "Configuration is environment variables. `tollgate config check` says which are set and whether they make sense, without values.",
        _table(("variable", "default", "what it is"), rows),
    )


def ledger() -> str:
    rows = [
        (event if place == 0 else "", f"`{rule.type}`" if place == 0 else "", leg.part, f"`{leg.debit}`", f"`{leg.credit}`")
        for event, rule in RULES.items()
        for place, leg in enumerate(rule.legs)
    ]
    return _page(
        "Ledger",
        "The books are kept in double entry and written by the transaction of the fact that they book. Entries are never changed; a mistake "
        "is undone by a reversal. The wallets (what a merchant is owed) are written by the database from the entries: pending is what "
        "`merchant_pending` and `merchant_fee_expense` make together, available is `merchant_available`. "
        f"The fee is {FEE_PER_MILLE / 10} % and {FEE_FIXED} minor units of the captured amount, a half rounded up: 25.99 makes 1.05, and the "
        "merchant is owed 24.94. `tollgate ledger trial-balance` shows that debits equal credits.\n\n"
        "A part that is 0 makes no entries: a sale has no hold to let go of.",
        _table(("fact", "type", "part", "debit", "credit"), rows),
    )


def figures() -> str:
    gauges = [(name, "gauge", gauge.labels, meaning) for gauge in GAUGES for name, meaning in zip(gauge.names, gauge.meanings, strict=True)]
    counted = [(one.name, type(one).__name__.lower(), one.labels, one.meaning) for one in FIGURES]
    own = [(name, "gauge", labels, meaning) for name, meaning, labels in OWN]
    return _page(
        "Figures",
        "`GET /metrics` shows them in the form of Prometheus, to whoever brings METRICS_TOKEN if it is set. Every web process shows the "
        "same: counts of all processes are added up in Postgres every five seconds and never begin at 0 again, gauges are read from the "
        "tables. Rules for alerts are in `ops/alerts`.",
        _table(
            ("name", "kind", "labels", "what it is"),
            [(f"`{name}`", kind, ", ".join(labels), meaning) for name, kind, labels, meaning in (*own, *gauges, *counted)],
        ),
    )


PAGES: dict[str, Callable[[], str]] = {
    "errors.md": errors,
    "states.md": states,
    "settings.md": settings,
    "ledger.md": ledger,
    "figures.md": figures,
}


def _page(title: str, introduction: str, body: str) -> str:
    return f"# {title}\n\n{PRINTED}\n\n{introduction}\n\n{body.rstrip()}\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def _yes(condition: bool) -> str:  # noqa: FBT001 - the word for it is all that is asked
    return "yes" if condition else ""


if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
