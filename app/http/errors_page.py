"""`/docs/errors`: the page that the `type` of every problem document points to, printed from the closed table."""

from html import escape

from app.core.errors import ERRORS
from app.http.answers import Answer, Header
from app.http.call import Call
from app.http.routes import Route

_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"),
)
_STYLE = "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}td,th{text-align:left;vertical-align:top;padding:.4rem .8rem}"


def _row(code: str, status: int, retryable: bool, meaning: str, remedy: str) -> str:  # noqa: FBT001 - a table's cells in their order
    cells = (f"<code>{escape(code)}</code>", str(status), "yes" if retryable else "no", escape(meaning), escape(remedy))
    return f'<tr id="{escape(code)}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _page() -> bytes:
    rows = "\n".join(_row(one.code, one.http_status, one.retryable, one.__doc__ or "", one.remedy) for one in ERRORS)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Tollgate: errors</title><style>{_STYLE}</style></head><body>
<h1>Errors</h1>
<p>Every error is an <code>application/problem+json</code> document (RFC 9457) whose <code>code</code> is one of these.</p>
<table><thead><tr><th>code</th><th>status</th><th>retry?</th><th>meaning</th><th>what to do</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
""".encode()


_PAGE = _page()


async def errors(_call: Call[None]) -> Answer:
    """What each error code means"""
    return Answer(200, _PAGE, list(_HEADERS))


ROUTES = (Route("GET", "/docs/errors", errors, access="nobody", answers={200: "text/html"}),)
