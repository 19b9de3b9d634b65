"""What API.md says under Conventions, Idempotency and Waiting, seen from outside."""

import json
import logging
from typing import Any

import pytest

from tests.http.conftest import Web

BODY = b'{"amount":5,"currency":"USD"}'
CAPTURE = "/v1/echoes/pay_01h455vb4pex5vsknk084sn02q/capture"


async def test_every_answer_has_the_common_headers(web: Web) -> None:
    """Request id, version, nosniff and no-store are on successes, refusals and paths that do not exist."""
    for method, path, body in (
        ("POST", "/v1/echoes", BODY),
        ("POST", "/v1/echoes", b"x"),
        ("GET", "/v1/nothing", None),
        ("GET", "/healthz", None),
    ):
        _, headers, _ = await web.ask(method, path, body)

        assert headers["x-request-id"].startswith("req_")
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert "strict-transport-security" not in headers


async def test_hsts_is_sent_where_tls_is_on(web: Web) -> None:
    """Behind a router that ends TLS the browser is told to come back by TLS only."""
    for path in ("/healthz", "/v1/nothing"):
        _, headers, _ = await web.ask("GET", path, headers={"X-Forwarded-Proto": "https"})

        assert headers["strict-transport-security"].startswith("max-age=")


async def test_a_sane_request_id_is_kept_and_another_replaced(web: Web) -> None:
    """128 visible ASCII characters are the caller's; longer ones and blanks give way to our own."""
    for given, kept in (("order-7/try-2", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("é", False)):
        status, headers, document = await web.ask("POST", "/v1/echoes", b"x", headers={"X-Request-ID": given})

        assert status == 400
        assert (headers["x-request-id"] == given) is kept
        assert document["request_id"] == headers["x-request-id"]


async def test_the_version_is_the_keys_unless_asked_for(web: Web) -> None:
    """`Tollgate-Version` is echoed; a date without a version is 400."""
    _, headers, _ = await web.ask("POST", "/v1/echoes", BODY)
    asked, _, _ = await web.ask("POST", "/v1/echoes", BODY, headers={"Tollgate-Version": headers["tollgate-version"]})
    status, _, document = await web.ask("POST", "/v1/echoes", BODY, headers={"Tollgate-Version": "2001-01-01"})

    assert (headers["tollgate-version"], asked) == ("2026-11-20", 201)
    assert (status, document["code"], document["param"]) == (400, "unknown_version", "Tollgate-Version")


async def test_a_key_is_taken_from_either_header(web: Web) -> None:
    """Bearer and X-API-Key are alike; without a key, or with one that nobody holds, the answer is 401 and says how."""
    key = web.keys.secret
    accepted = [{"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer  {key} "}, {"X-API-Key": key}]
    refused = [{}, {"X-API-Key": f"{key}0"}, {"Authorization": "Bearer sk_test_nobody"}, {"Authorization": f"Basic {key}"}]

    for headers in accepted:
        status, _, _ = await web.ask("POST", "/v1/echoes", BODY, token="", headers=headers)
        assert status == 201
    for headers in refused:
        status, answered, document = await web.ask("POST", "/v1/echoes", BODY, token="", headers=headers)
        assert (status, document["code"]) == (401, "unauthenticated")
        assert answered["www-authenticate"].startswith("Bearer")


async def test_two_different_keys_are_refused_and_the_same_twice_is_not(web: Web) -> None:
    """Which of two keys was meant is not guessed."""
    different, _, document = await web.ask("POST", "/v1/echoes", BODY, headers={"X-API-Key": web.keys.live})
    same, _, _ = await web.ask("POST", "/v1/echoes", BODY, headers={"X-API-Key": web.keys.secret})

    assert (different, document["code"], same) == (400, "invalid_request", 201)


async def test_each_kind_of_key_opens_its_own_routes(web: Web) -> None:
    """A publishable key opens none of these, an operator's only /v1/ops, which nobody else finds."""
    keys = web.keys
    seen = {}
    for name, token in (
        ("secret", keys.secret),
        ("live", keys.live),
        ("publishable", keys.publishable),
        ("operator", keys.operator),
        ("none", ""),
    ):
        merchant, _, _ = await web.ask("POST", "/v1/echoes", BODY, token=token)
        operator, _, _ = await web.ask("GET", "/v1/ops/queues", token=token)
        seen[name] = (merchant, operator)

    assert seen == {"secret": (201, 404), "live": (201, 404), "publishable": (403, 404), "operator": (403, 200), "none": (401, 404)}


async def test_merchant_id_in_a_body_must_be_ones_own(web: Web) -> None:
    """Naming oneself is fine, naming somebody else is 403."""
    from app.core.ids import typeid

    own = json.dumps({"amount": 5, "currency": "USD", "merchant_id": typeid("mer", web.keys.merchant_id)}).encode()
    status, _, _ = await web.ask("POST", "/v1/echoes", own)
    other, _, document = await web.ask("POST", "/v1/echoes", b'{"amount":5,"currency":"USD","merchant_id":"mer_x"}')

    assert (status, other, document["code"], document["param"]) == (201, 403, "forbidden", "merchant_id")


async def _key_of(web: Web, body: bytes, header: str | None) -> Any:
    status, _, document = await web.ask("POST", "/v1/echoes", body, headers={} if header is None else {"Idempotency-Key": header})
    return (document["key"], document["fingerprint"]) if status == 201 else document["code"]


async def test_an_idempotency_key_comes_by_header_or_body(web: Web) -> None:
    """Quoted or bare, in the header or in the body or equally in both: it is one key of one request."""
    in_body = b'{"amount":5,"currency":"USD","idempotency_key":"k-1"}'
    seen = {await _key_of(web, body, header) for body, header in ((BODY, "k-1"), (BODY, '"k-1"'), (in_body, None), (in_body, "k-1"))}

    assert len(seen) == 1
    assert seen.pop()[0] == "k-1"
    assert (await _key_of(web, BODY, None)) == (None, "")
    assert (await _key_of(web, BODY, '"a \\"b\\" \\\\"'))[0] == 'a "b" \\'


async def test_an_impossible_idempotency_key_is_refused(web: Web) -> None:
    """Empty, too long, badly quoted, not ASCII, or two different ones: 400."""
    for header in ("", '""', "x" * 256, '"open', '"a"b', "ké"):
        assert await _key_of(web, BODY, header) == "idempotency_key_invalid", header
    assert await _key_of(web, b'{"amount":5,"currency":"USD","idempotency_key":"k-1"}', "k-2") == "idempotency_key_invalid"
    assert await _key_of(web, b'{"amount":5,"currency":"USD","idempotency_key":""}', None) == "invalid_value"
    assert (await _key_of(web, BODY, "x" * 255))[0] == "x" * 255


async def test_a_fingerprint_is_of_the_meaning_and_not_of_the_spelling(web: Web) -> None:
    """White space, order, escapes, defaults, the waiting and the version leave it alone; an amount or another path does not."""
    spellings = (
        BODY,
        b' {"currency":"\\u0055SD", "amount":5} ',
        b'{"amount":5,"currency":"USD","capture_method":"automatic","reference":null}',
    )
    same = {(await _key_of(web, body, "k"))[1] for body in spellings}
    others = [
        (await _key_of(web, body, "k"))[1] for body in (b'{"amount":6,"currency":"USD"}', b'{"amount":5,"currency":"USD","metadata":{}}')
    ]
    in_order = {
        (await _key_of(web, b'{"amount":5,"currency":"USD","metadata":%s}' % metadata, "k"))[1]
        for metadata in (b'{"a":"1","b":"2"}', b'{"b":"2","a":"1"}')
    }

    assert len(same) == 1
    assert len({*same, *others}) == 3
    assert len(in_order) == 1


async def test_how_long_a_caller_waits(web: Web) -> None:
    """`Prefer` is taken from 0 to 25 seconds and echoed; what makes no sense is passed over, as RFC 7240 asks."""
    cases = {
        None: (10.0, None),
        "wait=3": (3.0, "wait=3"),
        "Wait=0": (0.0, "wait=0"),
        "wait=99": (25.0, "wait=25"),
        "respond-async": (0.0, "respond-async"),
        "respond-async, wait=4": (4.0, "wait=4"),
        "return=minimal; foo=bar, wait=2": (2.0, "wait=2"),
        "wait=-1": (10.0, None),
        "wait=soon": (10.0, None),
        "wait=99999999999999": (10.0, None),
        ",,;=": (10.0, None),
    }
    for prefer, (seconds, applied) in cases.items():
        _, headers, document = await web.ask("POST", CAPTURE, headers={} if prefer is None else {"Prefer": prefer})

        assert (document["wait"], headers.get("preference-applied")) == (seconds, applied), prefer


async def test_if_match_names_versions(web: Web) -> None:
    """The version is the ETag; a list that has it and `*` pass, weak and foreign tags do not, other text is 400."""
    passed = {None: None, "*": None, '"3"': [3], '"2", "3"': [2, 3]}
    for header, versions in passed.items():
        status, headers, document = await web.ask("POST", CAPTURE, headers={} if header is None else {"If-Match": header})
        assert (status, headers["etag"], document["if_match"]) == (200, '"3"', versions)
    for header, code in {
        '"2"': "version_conflict",
        'W/"3"': "version_conflict",
        '"x"': "version_conflict",
        "3": "invalid_request",
        '"3': "invalid_request",
    }.items():
        status, _, document = await web.ask("POST", CAPTURE, headers={"If-Match": header})
        assert (status, document["code"]) == (412 if code == "version_conflict" else 400, code), header


async def test_a_list_has_its_envelope_and_its_page(web: Web) -> None:
    """Cursors and filters arrive parsed, and the envelope is the one of every list."""
    query = (
        "limit=7&starting_after=pay_01h455vb4pex5vsknk084sn02q&status=failed&reference=a%2Bb+c&created_at[gte]=2026-11-20T01:00:00%2B01:00"
    )
    status, _, document = await web.ask("GET", f"/v1/echoes?{query}")

    assert status == 200
    assert {"object": "list", "has_more": True, "url": "/v1/echoes"}.items() <= document.items()
    assert document["data"] == [
        {
            "limit": 7,
            "after": "01890a5d-ac96-774b-bcce-b302099a8057".replace("-", ""),
            "before": None,
            "filters": {"status": "failed", "reference": "a+b c", "created_at[gte]": "2026-11-20T00:00:00Z"},
        },
        {"raw": True},
    ]


async def test_instants_before_all_ids_mean_the_first(web: Web) -> None:
    """A filter from 1788 is as good as one from 1970: ids hold no earlier instant."""
    _, _, document = await web.ask("GET", "/v1/echoes?created_at[gte]=1788-05-23T03:33:41Z")

    assert document["data"][0]["filters"] == {"created_at[gte]": "1970-01-01T00:00:00Z"}


async def test_methods_that_a_path_does_not_take(web: Web) -> None:
    """405 names those it takes, OPTIONS says them, HEAD is GET without its body."""
    status, headers, document = await web.ask("DELETE", "/v1/echoes")
    assert (status, headers["allow"], document["code"]) == (405, "GET, HEAD, POST, OPTIONS", "method_not_allowed")

    status, headers, _ = await web.ask("OPTIONS", "/v1/echoes", token="")
    assert (status, headers["allow"]) == (204, "GET, HEAD, POST, OPTIONS")

    got, whole, _ = await web.ask("GET", "/v1/echoes")
    status, headers, body = await web.ask("HEAD", "/v1/echoes")
    assert (got, status, body, headers["content-length"]) == (200, 200, b"", whole["content-length"])


async def test_what_cannot_be_answered_in_json_is_not_acceptable(web: Web) -> None:
    """An Accept header that rules JSON out is 406; those of browsers and clients pass."""
    for accept, wanted in {"text/html": 406, "image/*": 406, "application/json": 201, "*/*": 201, "text/html, */*;q=0.1": 201}.items():
        status, headers, _ = await web.ask("POST", "/v1/echoes", BODY, headers={"Accept": accept})

        assert status == wanted
        assert status == 201 or headers["content-type"] == "application/problem+json"


async def test_the_last_resort_is_a_logged_500_that_gives_nothing_away(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    """What broke stands in the log under the request's id and not in the answer."""
    with caplog.at_level(logging.ERROR):
        status, headers, document = await web.ask("GET", "/v1/breakdown")

    assert (status, document["code"], document["retryable"]) == (500, "internal_error", True)
    assert "planted" not in json.dumps(document)
    assert [record.__dict__["request_id"] for record in caplog.records if "planted" in str(record.exc_info)] == [headers["x-request-id"]]


async def test_callbacks_of_others_arrive_raw(web: Web) -> None:
    """A route for nobody's key is given the bytes as they came, whatever they are."""
    status, _, document = await web.ask(
        "POST", "/v1/providers/sandbox/events?x=1", b"\x00\xff not json", token="", headers={"Content-Type": "text/plain"}
    )

    assert (status, document) == (200, {"size": 11, "name": "sandbox"})


async def test_the_database_gone_is_503(web: Web) -> None:
    """Without Postgres nobody is told that his key is wrong, and the answer says to come again."""
    await web.resources.writer_pool.close()

    status, headers, document = await web.ask("POST", "/v1/echoes", BODY)

    assert (status, document["code"], document["retryable"], headers["retry-after"]) == (503, "service_unavailable", True, "1")
