"""The merchant's side: register a webhook endpoint, take a payment, give part of it back, meet a decline, wait for the webhooks."""

import asyncio
import time
from typing import Any, NamedTuple

import aiohttp

from app.core.money import format_minor
from app.demo.receiver import Receiver

AMOUNT = 2599
CURRENCY = "USD"
# 2.9 % and 30 minor units of the captured amount, a half rounded up: docs/ledger.md.
FEE = 105
REFUNDED = 1000
# Far above what deliveries take; below it the demo would call a slow machine a broken one.
WEBHOOKS_SECONDS = 30.0
REQUEST_SECONDS = 30.0
# Without these the story is not told; there are others too.
EVENTS = frozenset(
    {
        "payment_intent.created",
        "payment_intent.processing",
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "payment.created",
        "payment.captured",
        "payment.partially_refunded",
        "payment.failed",
        "refund.created",
        "refund.succeeded",
    }
)

Json = dict[str, Any]


class Unexpected(Exception):
    """An answer that no demo should get; the message says which."""


class Step(NamedTuple):
    """One request with its answer, as a line of the report."""

    what: str
    request: str
    answer: str


class Webhook(NamedTuple):
    """An event and what became of it. `delivered` is the endpoint's answer as the delivery log has it."""

    event: Json
    delivered: str
    verified: bool


class Story:
    """What was asked and answered, in the order in which it happened."""

    def __init__(self, session: aiohttp.ClientSession, *, url: str, key: str) -> None:
        self.steps: list[Step] = []
        self.payment: Json = {}
        self.declined: Json = {}
        self.timeline: list[Json] = []
        self.webhooks: list[Webhook] = []
        self.wrong: list[str] = []
        self._session = session
        self._url = url
        self._key = key

    async def ask(self, method: str, path: str, body: Json | None = None, *, key: str | None = None) -> tuple[int, Json]:
        headers = {"Authorization": f"Bearer {self._key}"} | ({} if key is None else {"Idempotency-Key": key})
        async with self._session.request(method, self._url + path, json=body, headers=headers) as response:
            answer: Json = await response.json(content_type=None)
            return response.status, answer

    async def do(self, what: str, path: str, body: Json, *, expect: int, key: str | None = None) -> Json:
        """A POST that is a step of the story. Raises Unexpected."""
        status, answer = await self.ask("POST", path, body, key=key)
        self.steps.append(Step(what, f"POST {path}", _in_words(status, answer)))
        if status != expect:
            raise Unexpected(f"POST {path} answered {status} where {expect} is due: {answer.get('detail', answer)}")
        return answer

    async def read(self, path: str) -> Json:
        """Raises Unexpected."""
        status, answer = await self.ask("GET", path)
        if status != 200:
            raise Unexpected(f"GET {path} answered {status}: {answer.get('detail', answer)}")
        return answer

    def expect(self, what: str, *, found: object, due: object) -> None:
        if found != due:
            self.wrong.append(f"{what} is {found} where {due} is due")


async def tell(story: Story, receiver: Receiver) -> None:
    """All of it. What is not as it should be stands in `story.wrong`; raises Unexpected where it cannot go on."""
    endpoint = await story.do("listen to webhooks", "/v1/webhook_endpoints", {"url": receiver.url, "enabled_events": ["*"]}, expect=201)
    receiver.secret = endpoint["secret"]
    payment_id = await _pay(story)
    await _refund(story, payment_id)
    await _meet_a_decline(story)
    await _wait_for_webhooks(story, receiver, endpoint["id"])
    story.payment = await story.read(f"/v1/payments/{payment_id}")
    story.timeline = (await story.read(f"/v1/payments/{payment_id}/timeline"))["data"]
    for name, due in (("amount_captured", AMOUNT), ("fee", FEE), ("amount_refunded", REFUNDED), ("status", "partially_refunded")):
        story.expect(f"the payment's {name}", found=story.payment[name], due=due)


async def _pay(story: Story) -> str:
    """The payment's id."""
    order = {"amount": AMOUNT, "currency": CURRENCY, "capture_method": "automatic", "reference": "order-1001"}
    card = {"payment_method": {"type": "card", "token": "tok_sandbox_approved"}}
    intent = await story.do("create a payment", "/v1/payment_intents", {**order, **card}, expect=201, key="order-1001")
    paid = await story.do("confirm it", f"/v1/payment_intents/{intent['id']}/confirm", {}, expect=200, key="order-1001")
    story.expect("the intent's status", found=paid["status"], due="succeeded")
    payment_id: str = paid["payment_id"]
    return payment_id


async def _refund(story: Story, payment_id: str) -> None:
    wanted = {"amount": REFUNDED, "reason": "one of two came back"}
    refund = await story.do("refund part of it", f"/v1/payments/{payment_id}/refunds", wanted, expect=201, key="return-7")
    story.expect("the refund's status", found=refund["status"], due="succeeded")


async def _meet_a_decline(story: Story) -> None:
    order = {"amount": AMOUNT, "currency": CURRENCY, "payment_method": {"type": "card", "token": "tok_sandbox_declined"}}
    intent = await story.do("create another", "/v1/payment_intents", order, expect=201)
    story.declined = await story.do("its card is declined", f"/v1/payment_intents/{intent['id']}/confirm", {}, expect=402)
    story.expect("the decline code", found=story.declined.get("decline_code"), due="do_not_honor")


async def _wait_for_webhooks(story: Story, receiver: Receiver, endpoint_id: str) -> None:
    """Until every event of the feed was sent and its delivery is on record as such, or it has taken too long."""
    deadline = time.monotonic() + WEBHOOKS_SECONDS
    while True:
        events = (await story.read("/v1/events?limit=100"))["data"]
        sent = (await story.read(f"/v1/webhook_endpoints/{endpoint_id}/deliveries?limit=100"))["data"]
        by_event = {one["event_id"]: one for one in sent}
        open_ = [one for one in events if by_event.get(one["id"], {}).get("status") != "delivered"]
        missing = EVENTS - {one["type"] for one in events}
        if not (open_ or missing) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.05)
    story.webhooks = [_webhook(one, by_event.get(one["id"]), receiver) for one in events]
    story.wrong += [f"there is no event {name}" for name in sorted(missing)]
    story.wrong += [f"the webhook {one['type']} was not delivered" for one in open_]
    story.wrong += [f"the webhook {one.event['type']} did not verify" for one in story.webhooks if not one.verified]


def _webhook(event: Json, delivery: Json | None, receiver: Receiver) -> Webhook:
    got = receiver.received.get(event["id"])
    # What was signed has to be what the feed says, too.
    verified = got is not None and got.verified and got.event == event
    if delivery is None:
        return Webhook(event, "no", verified)
    tries = "" if delivery["attempts"] == 1 else f" at attempt {delivery['attempts']}"
    return Webhook(event, f"{delivery['status']}, {delivery['last_status_code']}{tries}", verified)


def _in_words(status: int, answer: Json) -> str:
    """The status and what a reader wants to know of the answer."""
    if status == 402:
        again = "may be retried" if answer.get("retryable") else "not to be retried"
        return f"402 {answer['code']}: {answer['decline_code']}, {again}"
    if status >= 400:
        return f"{status} {answer.get('code', '')}"
    words = [str(status), str(answer.get("id", "")), str(answer.get("status", ""))]
    if "amount" in answer:
        words.append(f"{format_minor(answer['currency'], answer['amount'])} {answer['currency']}")
    return " ".join(words)
