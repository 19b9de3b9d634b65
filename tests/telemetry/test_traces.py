"""One trace from a merchant's request to the webhook that tells of it, read from what real processes export."""

import json
import re
from typing import Any

import aiohttp

from tests.flows.shop import eventually, method
from tests.telemetry.conftest import Watched, listening, shop_of
from tests.webhooks.receiver import Receiver

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"

Span = dict[str, Any]


def id_of(span: Span) -> str:
    return str(span["context"]["span_id"]).removeprefix("0x")


def parent_of(span: Span) -> str | None:
    return None if span["parent_id"] is None else str(span["parent_id"]).removeprefix("0x")


def in_trace(watched: Watched, trace_id: str) -> list[Span]:
    return [span for span in watched.spans() if span["context"]["trace_id"] == f"0x{trace_id}"]


async def delivered(receiver: Receiver, type_: str) -> dict[str, Any]:
    """What the merchant's server got, headers and all."""

    async def look() -> dict[str, Any] | None:
        return next((one for one in receiver.got("/hook") if json.loads(one["body"])["type"] == type_), None)

    return await eventually(look, what=f"a delivery of {type_}")


async def above(watched: Watched, span: Span) -> Span:
    """A span's parent, which ends later and in another process."""

    async def look() -> Span | None:
        return next((one for one in watched.spans() if id_of(one) == parent_of(span)), None)

    return await eventually(look, what=f"the parent of {span['name']}")


async def exported(watched: Watched, trace_id: str, name: str, **attributes: Any) -> Span:
    async def look() -> Span | None:
        found = [span for span in in_trace(watched, trace_id) if span["name"] == name and attributes.items() <= span["attributes"].items()]
        return found[0] if found else None

    return await eventually(look, what=f"a span {name} with {attributes}")


async def test_one_trace_from_the_request_to_the_webhook(traced: Watched, session: aiohttp.ClientSession, receiver: Receiver) -> None:
    """The webhook is the child of its row, that of the provider's answer, that of the request, and that of the caller's own span."""
    shop = await listening(await shop_of(traced, session), receiver)

    reply = await shop.post(
        "/v1/payment_intents",
        {"amount": 2599, "currency": "USD", "payment_method": method("approved"), "confirm": True},
        headers={"traceparent": f"00-{TRACE}-{CALLER}-01"},
    )
    got = await delivered(receiver, "payment.captured")

    assert reply.status == 201
    post = await exported(traced, TRACE, "WebhookPost", **{"event.id": got["headers"]["webhook-id"]})
    deliver = await above(traced, post)
    send = await above(traced, deliver)
    request = await above(traced, send)
    assert [span["name"] for span in (request, send, deliver, post)] == ["CreateIntent", "PspSend", "WebhookDeliver", "WebhookPost"]
    assert [span["kind"].split(".")[1] for span in (request, send, deliver, post)] == ["SERVER", "CONSUMER", "CONSUMER", "CLIENT"]
    assert parent_of(request) == CALLER
    # The merchant's server could go on with it.
    assert got["headers"]["traceparent"] == f"00-{TRACE}-{id_of(post)}-01"
    # The call to the provider is the row's child, beside the delivery.
    sale = await exported(traced, TRACE, "PspSale")
    assert parent_of(sale) == id_of(send)
    assert {span["resource"]["attributes"]["service.name"] for span in (request, send)} == {"tollgate-web", "tollgate-worker"}


async def test_spans_name_the_payment_and_no_key_of_anybody(traced: Watched, session: aiohttp.ClientSession) -> None:
    """Each span of a payment has the provider, the intent and the merchant; neither API keys nor card tokens are in the file."""
    shop = await shop_of(traced, session)
    intent = await shop.intent("approved")
    trace = "a" * 32

    await shop.confirm(intent, headers={"traceparent": f"00-{trace}-{CALLER}-01"}, key="trace me")
    sale = await exported(traced, trace, "PspSale")

    attributes = sale["attributes"]
    assert (attributes["psp"], attributes["intent.id"]) == ("sandbox", intent["id"])
    assert attributes["tenant"] == intent["merchant_id"]
    assert attributes["outcome"] == "approved"
    text = json.dumps(traced.spans())
    assert [secret for secret in (shop.merchant.secret, "tok_sandbox", "trace me", "client_secret") if secret in text] == []


async def test_a_provider_without_an_answer_is_a_failed_span(traced: Watched, session: aiohttp.ClientSession) -> None:
    """Unknown is no decline: the call's span is an error, `psp failure`, and a decline's is not."""
    shop = await shop_of(traced, session)
    lost, refused = "b" * 32, "c" * 32
    traced.system.strike("sale", "no_answer_after_effect")

    try:
        for trace, card in ((lost, "approved"), (refused, "declined")):
            intent = await shop.intent(card)
            await shop.confirm(intent, prefer="respond-async", headers={"traceparent": f"00-{trace}-{CALLER}-01"})
        failed, declined = await exported(traced, lost, "PspSale"), await exported(traced, refused, "PspSale")
    finally:
        traced.system.behave()

    assert failed["status"] == {"status_code": "ERROR", "description": "psp failure"}
    assert (declined["status"]["status_code"], declined["attributes"]["outcome"]) == ("UNSET", "declined")


async def test_a_caller_who_records_nothing_is_not_recorded(traced: Watched, session: aiohttp.ClientSession, receiver: Receiver) -> None:
    """Without the sampled flag no span is exported, and merchants' servers are not told to record nothing."""
    shop = await listening(await shop_of(traced, session), receiver)
    trace = "d" * 32

    reply = await shop.post("/v1/payment_intents", {"amount": 100, "currency": "USD"}, headers={"traceparent": f"00-{trace}-{CALLER}-00"})
    got = await delivered(receiver, "payment_intent.created")

    assert reply.status == 201
    assert "traceparent" not in got["headers"]
    assert in_trace(traced, trace) == []


async def test_what_is_no_traceparent_begins_a_trace(traced: Watched, session: aiohttp.ClientSession, receiver: Receiver) -> None:
    """A caller's garbage is neither refused nor passed on."""
    shop = await listening(await shop_of(traced, session), receiver)

    reply = await shop.post("/v1/payment_intents", {"amount": 100, "currency": "USD"}, headers={"traceparent": "00-garbage' --"})
    got = await delivered(receiver, "payment_intent.created")

    assert reply.status == 201
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", got["headers"]["traceparent"])


async def test_without_an_exporter_a_callers_trace_still_reaches_the_webhook(
    plain: Watched, session: aiohttp.ClientSession, receiver: Receiver
) -> None:
    """By default no span is made, but a merchant's own trace goes through; of ours nobody outside is told."""
    shop = await listening(await shop_of(plain, session), receiver)
    trace = "e" * 32

    await shop.post("/v1/payment_intents", {"amount": 100, "currency": "USD"}, headers={"traceparent": f"00-{trace}-{CALLER}-01"})
    theirs = await delivered(receiver, "payment_intent.created")
    receiver.journal.clear()
    await shop.post("/v1/payment_intents", {"amount": 100, "currency": "USD"})
    ours = await delivered(receiver, "payment_intent.created")

    assert theirs["headers"]["traceparent"] == f"00-{trace}-{CALLER}-01"
    assert "traceparent" not in ours["headers"]
    assert plain.spans() == []
