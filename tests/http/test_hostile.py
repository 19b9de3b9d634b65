"""Nothing that a client sends gives a 500, and whatever is refused is refused by a problem document that says what and where."""

import asyncio
from typing import Any

import msgspec

from app.core.errors import ERRORS
from tests.http.conftest import Web

PATH = "/v1/echoes"
CODES = {error.code: error.http_status for error in ERRORS}


def _nested(levels: int) -> bytes:
    return b'{"amount":1,"currency":"USD","metadata":' + b"[" * levels + b"]" * levels + b"}"


# What is sent, and the code that has to come back.
BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "missing_field"),
    "no JSON": (b"amount=5", "malformed_json"),
    "cut off": (b'{"amount":5,"currency":"USD"', "malformed_json"),
    "trailing text": (b'{"amount":5,"currency":"USD"} x', "malformed_json"),
    "two documents": (b'{"amount":5,"currency":"USD"}{}', "malformed_json"),
    "a list": (b"[]", "invalid_request"),
    "null": (b"null", "invalid_request"),
    "a comment": (b'{"amount":5,/* */"currency":"USD"}', "malformed_json"),
    "a byte order mark": (b'\xef\xbb\xbf{"amount":5,"currency":"USD"}', "malformed_json"),
    "UTF-16": ('{"amount":5,"currency":"USD"}'.encode("utf-16"), "malformed_json"),
    "deeper than 32": (_nested(33), "malformed_json"),
    "a hundred thousand deep": (_nested(100_000), "malformed_json"),
    "many brackets and flat": (b'{"amount":1,"currency":"USD","tags":' + msgspec.json.encode(["[" * 99]) + b',"x":1}', "unknown_field"),
    "a key twice": (b'{"amount":5,"amount":6,"currency":"USD"}', "malformed_json"),
    "a key twice inside": (b'{"amount":5,"currency":"USD","metadata":{"a":"x","a":"y"}}', "malformed_json"),
    "a key twice, once escaped": (b'{"amount":5,"\\u0061mount":6,"currency":"USD"}', "malformed_json"),
    "raw NUL": (b'{"amount":5,"currency":"U\x00D"}', "malformed_json"),
    "escaped NUL": (b'{"amount":5,"currency":"USD","reference":"a\\u0000b"}', "malformed_json"),
    "escaped NUL in a name": (b'{"amount":5,"currency":"USD","metadata":{"\\u0000":"x"}}', "malformed_json"),
    "invalid UTF-8": (b'{"amount":5,"currency":"USD","reference":"\xff"}', "malformed_json"),
    "overlong UTF-8": (b'{"amount":5,"currency":"USD","reference":"\xc0\x80"}', "malformed_json"),
    "a surrogate in UTF-8": (b'{"amount":5,"currency":"USD","reference":"\xed\xa0\x80"}', "malformed_json"),
    "a lone surrogate": (b'{"amount":5,"currency":"USD","reference":"\\ud800"}', "malformed_json"),
    "a lone low surrogate": (b'{"amount":5,"currency":"USD","reference":"\\udc00 \\ud83d"}', "malformed_json"),
    "2^63": (b'{"amount":9223372036854775808,"currency":"USD"}', "malformed_json"),
    "2^64": (b'{"amount":18446744073709551616,"currency":"USD"}', "malformed_json"),
    "minus 2^63 - 1": (b'{"amount":-9223372036854775809,"currency":"USD"}', "malformed_json"),
    "5000 digits": (b'{"amount":' + b"9" * 5000 + b',"currency":"USD"}', "malformed_json"),
    "2^63 - 1": (b'{"amount":9223372036854775807,"currency":"USD"}', "invalid_amount"),
    "too much": (b'{"amount":1000000000000,"currency":"USD"}', "invalid_amount"),
    "negative": (b'{"amount":-5,"currency":"USD"}', "invalid_amount"),
    "zero": (b'{"amount":0,"currency":"USD"}', "invalid_amount"),
    "minus zero": (b'{"amount":-0,"currency":"USD"}', "invalid_amount"),
    "a float": (b'{"amount":2599.0,"currency":"USD"}', "invalid_amount"),
    "an exponent": (b'{"amount":1e3,"currency":"USD"}', "invalid_amount"),
    "a string": (b'{"amount":"5","currency":"USD"}', "invalid_amount"),
    "a truth": (b'{"amount":true,"currency":"USD"}', "invalid_amount"),
    "no amount": (b'{"amount":null,"currency":"USD"}', "invalid_amount"),
    "NaN": (b'{"amount":5,"currency":"USD","rate":NaN}', "malformed_json"),
    "Infinity": (b'{"amount":5,"currency":"USD","rate":-Infinity}', "malformed_json"),
    "beyond a float": (b'{"amount":5,"currency":"USD","rate":1e999}', "invalid_value"),
    "lower-case currency": (b'{"amount":5,"currency":"usd"}', "invalid_currency"),
    "a currency with a line end": (b'{"amount":5,"currency":"USD\\n"}', "invalid_currency"),
    "an unknown field": (b'{"amount":5,"currency":"USD","amonut":5}', "unknown_field"),
    "an unknown field inside": (b'{"amount":5,"currency":"USD","payment_method":{"type":"card","token":"t","x":1}}', "unknown_field"),
    "an unknown choice": (b'{"amount":5,"currency":"USD","capture_method":"later"}', "invalid_value"),
    "a wrong type": (b'{"amount":5,"currency":"USD","reference":7}', "invalid_request"),
    "metadata of numbers": (b'{"amount":5,"currency":"USD","metadata":{"a":1}}', "invalid_request"),
    "metadata of 51": (
        msgspec.json.encode({"amount": 5, "currency": "USD", "metadata": {str(n): "x" for n in range(51)}}),
        "invalid_value",
    ),
    "a long metadata key": (msgspec.json.encode({"amount": 5, "currency": "USD", "metadata": {"k" * 41: "x"}}), "invalid_value"),
    "a long metadata value": (msgspec.json.encode({"amount": 5, "currency": "USD", "metadata": {"k": "x" * 501}}), "invalid_value"),
    "a long reference": (msgspec.json.encode({"amount": 5, "currency": "USD", "reference": "x" * 256}), "invalid_value"),
    "another merchant": (b'{"amount":5,"currency":"USD","merchant_id":"mer_00000000000000000000000000"}', "forbidden"),
    "a huge body": (b'{"amount":5,"currency":"USD","reference":"' + b"x" * 300_000 + b'"}', "payload_too_large"),
}


def _flaw(status: int, headers: dict[str, Any], document: Any, code: str) -> str | None:
    """What is wrong with a refusal, if anything."""
    if not isinstance(document, dict) or headers["content-type"] != "application/problem+json":
        return f"{status} without a problem document"
    if (status, document["code"]) != (CODES[code], code):
        return f"{status} {document['code']}"
    wanted = {"type": f"/docs/errors#{code}", "status": status, "request_id": headers["x-request-id"]}
    return None if wanted.items() <= document.items() and document["detail"] and document["title"] else str(document)


async def test_hostile_bodies_get_the_refusal_they_deserve(web: Web) -> None:
    """Each hostile body is answered by a 4xx problem document with its own code."""
    flaws = {}
    for name, (body, code) in BODIES.items():
        flaws[name] = _flaw(*await web.ask("POST", PATH, body), code)

    assert {name: flaw for name, flaw in flaws.items() if flaw} == {}


async def test_what_only_looks_hostile_is_taken(web: Web) -> None:
    """Escapes, brackets in strings, pairs of surrogates and 32 levels are ordinary JSON."""
    bodies = {
        "a text that reads \\u0000": (b'{"amount":5,"currency":"USD","reference":"\\\\u0000"}', "\\u0000"),
        "a pair of surrogates": (b'{"amount":5,"currency":"USD","reference":"\\ud83d\\ude00"}', "\N{GRINNING FACE}"),
        "an escaped letter": (b'{"amount":5,"currency":"USD","reference":"\\u00e9"}', "é"),
        "brackets in a string": (msgspec.json.encode({"amount": 5, "currency": "USD", "reference": '{["' * 80}), '{["' * 80),
        "white space around": (b' \r\n\t{ "amount" : 5 , "currency" : "USD", "reference":"x" } \n', "x"),
    }

    for body, reference in bodies.values():
        status, _, document = await web.ask("POST", PATH, body)

        assert (status, document["body"]["reference"]) == (201, reference)


async def test_everything_wrong_is_named_at_once(web: Web) -> None:
    """`errors` lists each wrong member with its own code, and the first one decides the status."""
    _, _, document = await web.ask("POST", PATH, b'{"amount":0,"curency":"USD","payment_method":{"type":1,"token":"t"}}')

    assert (document["code"], document["param"]) == ("unknown_field", "curency")
    assert [(one["param"], one["code"]) for one in document["errors"]] == [
        ("curency", "unknown_field"),
        ("amount", "invalid_amount"),
        ("currency", "missing_field"),
        ("payment_method.type", "invalid_request"),
    ]


FORMS = [
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/json; charset=latin-1"},
    {"Content-Type": "application/vnd.api+json"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "application/json, text/plain"},
    {"Content-Encoding": "gzip"},
    {"Content-Encoding": "br"},
]


async def test_only_plain_json_is_taken(web: Web) -> None:
    """Other content types and compressed bodies are 415."""
    for headers in FORMS:
        status, _, document = await web.ask("POST", PATH, b'{"amount":5,"currency":"USD"}', headers=headers)

        assert (status, document["code"]) == (415, "unsupported_media_type"), headers


async def test_json_in_utf_8_may_say_so(web: Web) -> None:
    """`charset=utf-8` after the content type is tolerated."""
    status, _, _ = await web.ask(
        "POST", PATH, b'{"amount":5,"currency":"USD"}', headers={"Content-Type": "application/json; charset=UTF-8"}
    )

    assert status == 201


async def test_an_endless_body_is_cut_off(web: Web) -> None:
    """A chunked body without announced length is refused as soon as it passes the limit."""

    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 65_536

    headers = {"Authorization": f"Bearer {web.keys.secret}", "Content-Type": "application/json"}
    async with web.session.post(f"{web.url}{PATH}", data=endless(), headers=headers) as response:
        document = await response.json(content_type=None)

    assert (response.status, document["code"]) == (413, "payload_too_large")


QUERIES = {
    "unknown=1": "unknown_filter",
    "limit=0": "invalid_request",
    "limit=101": "invalid_request",
    "limit=-1": "invalid_request",
    "limit=1e2": "invalid_request",
    "limit=%D9%A1": "invalid_request",
    "limit=5&limit=6": "invalid_request",
    "starting_after=x": "invalid_cursor",
    "starting_after=pay_00000000000000000000000000%00": "invalid_request",
    "starting_after=PAY_00000000000000000000000000": "invalid_cursor",
    "starting_after=cus_00000000000000000000000000": "invalid_cursor",
    "ending_before=pay_z0000000000000000000000000": "invalid_cursor",
    "starting_after=pay_00000000000000000000000000&ending_before=pay_00000000000000000000000000": "invalid_request",
    "status=nonsense": "invalid_request",
    "customer_id=1": "invalid_request",
    "created_at=2026-11-20": "unknown_filter",
    "created_at[gte]=0001-01-01T00:00:00+23:59": "invalid_request",
    "created_at[gte]=yesterday": "invalid_request",
    "created_at[gte]=2026-11-20": "invalid_request",
    "created_at[gte]=9999-12-31T23:59:59-10:00": "invalid_request",
    "created_at[neq]=2026-11-20T00:00:00Z": "unknown_filter",
    "reference=": "invalid_request",
    f"reference={'x' * 256}": "invalid_request",
    "reference=%00": "invalid_request",
    "reference=%ff": "invalid_request",
    "&".join(f"p{number}=1" for number in range(40)): "invalid_request",
}


async def test_bad_cursors_and_filters_are_refused(web: Web) -> None:
    """A list shows nothing rather than something else than was asked for."""
    flaws = {query: _flaw(*await web.ask("GET", f"{PATH}?{query}"), code) for query, code in QUERIES.items()}

    assert {query: flaw for query, flaw in flaws.items() if flaw} == {}


PATHS = [
    "/v1/echoes/x/capture",
    "/v1/echoes/pay_/capture",
    "/v1/echoes/cus_00000000000000000000000000/capture",
    "/v1/echoes/pay_zzzzzzzzzzzzzzzzzzzzzzzzzz/capture",
    "/v1/echoes/%00/capture",
    "/v1/echoes/pay_0000000000000000000000000%ff/capture",
    f"/v1/echoes/{'9' * 5000}/capture",
    "/v1/nothing",
    "/",
    "/v1/echoes/../../etc/passwd",
    "/v1/%2e%2e/%2e%2e",
]


async def test_malformed_ids_and_unknown_paths_are_not_found(web: Web) -> None:
    """An id that cannot be one is the id of nothing."""
    flaws = {path: _flaw(*await web.ask("POST", path, b"{}"), "not_found") for path in PATHS}

    assert {path: flaw for path, flaw in flaws.items() if flaw} == {}


RAW_HEADERS: dict[bytes, str] = {
    b"Authorization: Bearer \xff\xfe": "unauthenticated",
    b"Authorization: Basic eDp5": "unauthenticated",
    b"Authorization: Bearer": "unauthenticated",
    b"X-API-Key: ": "unauthenticated",
    b"X-API-Key: " + b"x" * 5000: "unauthenticated",
    b"Authorization: Bearer a\r\nAuthorization: Bearer b": "invalid_request",
    b"Authorization: Bearer a\r\nX-API-Key: b": "invalid_request",
    b"Idempotency-Key: a\r\nIdempotency-Key: b": "invalid_request",
    b"Content-Type: application/json\r\nContent-Type: text/plain": "invalid_request",
    b"Tollgate-Version: 2026-11-20\r\nTollgate-Version: 2026-11-20": "invalid_request",
}


async def test_hostile_headers_are_refused(web: Web) -> None:
    """Headers that are no text, too long, or there twice never reach a route."""
    flaws = {}
    for lines, code in RAW_HEADERS.items():
        status, document = await _raw(web, b"POST /v1/echoes HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + lines + b"\r\n\r\n")
        flaws[lines] = None if (status, document["code"]) == (CODES[code], code) else f"{status} {document}"

    assert {lines: flaw for lines, flaw in flaws.items() if flaw} == {}


NO_HTTP = [
    b"nonsense\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/echoes HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /v1/echoes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/echoes HTTP/1.1\r\nHost: a b<>\r\n\r\n",
]


async def test_what_is_no_http_is_refused_in_the_same_form(web: Web) -> None:
    """Bytes that no HTTP reader agrees about, two lengths among them, get a 400 problem document."""
    for request in NO_HTTP:
        status, document = await _raw(web, request)

        assert (status, document["code"]) == (400, "invalid_request"), request


async def test_a_caller_who_goes_away_in_the_middle_breaks_nothing(web: Web) -> None:
    """A body that never arrives whole is dropped, and the next request is served."""
    _, writer = await asyncio.open_connection("127.0.0.1", web.port)
    head = f"POST /v1/echoes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {web.keys.secret}\r\nContent-Type: application/json\r\n"
    writer.write(head.encode() + b'Content-Length: 100\r\n\r\n{"amount"')
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    status, _, _ = await web.ask("POST", PATH, b'{"amount":5,"currency":"USD"}')

    assert status == 201


async def _raw(web: Web, request: bytes) -> tuple[int, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    body = await reader.readexactly(size)
    writer.close()
    return int(head.split()[1]), msgspec.json.decode(body)
