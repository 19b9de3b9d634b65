"""The 3-D Secure page: what the cardholder's bank would show, reduced to a form with two buttons."""

from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sandbox.model import Answer, Charge

HEADERS = (
    ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 30rem; margin: 3rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff }}
button {{ font: inherit; padding: .6rem 1.2rem; margin: 0 .6rem .6rem 0; border: 2px solid #1a4fa3; border-radius: .3rem; cursor: pointer }}
button[value=approve] {{ background: #1a4fa3; color: #fff }}
button[value=fail] {{ background: #fff; color: #1a4fa3 }}
button:focus-visible {{ outline: 3px solid #c25700; outline-offset: 2px }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{content}
</main>
</body>
</html>
"""

_FORM = """<p>Test bank. Is this payment of <strong>{amount} {currency}</strong> (in minor units) with the card ending in {last4} yours?</p>
<form method="post">
<button type="submit" name="outcome" value="approve">Approve</button>
<button type="submit" name="outcome" value="fail">Fail authentication</button>
</form>
"""


def page(charge: Charge, answer: Answer) -> bytes:
    if charge.state != "requires_action":
        return message("Nothing left to confirm", "This payment was confirmed or called off before. You can close this page.")
    form = _FORM.format(amount=charge.amount, currency=escape(charge.currency), last4=escape(answer.card.last4 if answer.card else ""))
    return _PAGE.format(title="Confirm your payment", content=form).encode()


def message(title: str, text: str) -> bytes:
    return _PAGE.format(title=escape(title), content=f"<p>{escape(text)}</p>").encode()


def chosen(form: bytes) -> bool | None:
    """True for approve, False for fail, None for anything else."""
    fields = dict(parse_qsl(form.decode("latin-1")))
    return {"approve": True, "fail": False}.get(fields.get("outcome", ""))


def way_back(charge: Charge, answer: Answer) -> str:
    """The return address as it was given, with `redirect_status` appended; empty if none was."""
    if not charge.return_url:
        return ""
    status = "succeeded" if answer.status in {"captured", "authorized"} else "failed"
    parts = urlsplit(charge.return_url)
    appended = urlencode({"redirect_status": status})
    # What stands there already stays byte for byte: the client may have signed it.
    return urlunsplit(parts._replace(query=f"{parts.query}&{appended}" if parts.query else appended))
