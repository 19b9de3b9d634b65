"""What comes after the first answer: the challenge and the callbacks."""

import hashlib
import hmac
import json
import time
from urllib.parse import urlsplit

import pytest

from tests.sandbox.receiver import Received, receiving
from tests.sandbox.running import CALLBACK_SECRET, Reply, RunningSandbox, eventually

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def choose(sandbox: RunningSandbox, redirect_url: str, outcome: str) -> Reply:
    return sandbox.call("POST", urlsplit(redirect_url).path, f"outcome={outcome}".encode(), headers=FORM)


@pytest.mark.parametrize(("operation", "status"), [("sale", "captured"), ("authorize", "authorized")])
def test_an_approved_challenge_books_the_effect(sandbox: RunningSandbox, reference: str, operation: str, status: str) -> None:
    """Nothing is held before the payer approves; afterwards the browser goes back and a look-up tells the end."""
    first = sandbox.operate(operation, reference, card="authentication_required", return_url="https://shop.test/back?order=1&sig=a%2Fb#top")
    assert (first.status, first.json["status"]) == (200, "requires_action")
    assert sandbox.look_up(reference).json["status"] == "requires_action"
    assert sandbox.journal(reference) == []

    reply = choose(sandbox, first.json["redirect_url"], "approve")

    assert reply.status == 303
    assert reply.headers["location"] == "https://shop.test/back?order=1&sig=a%2Fb&redirect_status=succeeded#top"
    assert sandbox.look_up(reference).json["status"] == status
    assert sandbox.look_up(reference).json["redirect_url"] is None
    assert [line["kind"] for line in sandbox.journal(reference)] == [operation]


@pytest.mark.parametrize(
    ("card", "outcome", "code"),
    [
        ("authentication_required", "fail", "authentication_failed"),
        ("declined_after_authentication", "approve", "do_not_honor"),
        ("declined_after_authentication", "fail", "authentication_failed"),
    ],
)
def test_a_challenge_can_end_in_a_decline(sandbox: RunningSandbox, reference: str, card: str, outcome: str, code: str) -> None:
    """A failed authentication, or a bank that declines after a good one, has no effect."""
    first = sandbox.operate("sale", reference, card=card, return_url="https://shop.test/back")

    reply = choose(sandbox, first.json["redirect_url"], outcome)

    assert reply.headers["location"] == "https://shop.test/back?redirect_status=failed"
    assert (sandbox.look_up(reference).json["status"], sandbox.look_up(reference).json["decline_code"]) == ("declined", code)
    assert sandbox.journal(reference) == []


def test_the_first_choice_stands(sandbox: RunningSandbox, reference: str) -> None:
    """Sending the form again, or changing one's mind, changes nothing."""
    first = sandbox.operate("sale", reference, card="authentication_required")
    choose(sandbox, first.json["redirect_url"], "approve")

    for outcome in ("approve", "fail"):
        assert choose(sandbox, first.json["redirect_url"], outcome).status == 200

    assert len(sandbox.journal(reference)) == 1


def test_the_challenge_is_a_page_with_two_buttons(sandbox: RunningSandbox, reference: str) -> None:
    """It names the amount, runs no script and may not be framed; what is no payment is 404, what is no choice 422."""
    first = sandbox.operate("sale", reference, card="authentication_required", amount=77)
    path = urlsplit(first.json["redirect_url"]).path

    page = sandbox.call("GET", path)

    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert b'<html lang="en">' in page.body
    assert b"77 USD" in page.body
    assert page.body.count(b"<button") == 2
    assert sandbox.call("GET", "/3ds/ch_nobody").status == 404
    assert choose(sandbox, "/3ds/ch_nobody", "approve").status == 404
    assert choose(sandbox, path, "perhaps").status == 422


def test_a_void_calls_the_challenge_off(sandbox: RunningSandbox, reference: str) -> None:
    """A voided challenge is declined as canceled, has no effect, and approving it comes too late."""
    first = sandbox.operate("sale", reference, card="authentication_required")

    void = sandbox.operate("void", f"{reference}-v", charge=first.json["charge"])
    choose(sandbox, first.json["redirect_url"], "approve")

    assert void.json["status"] == "succeeded"
    assert sandbox.look_up(reference).json["decline_code"] == "canceled"
    assert sandbox.journal(reference) + sandbox.journal(f"{reference}-v") == []


def assert_signed(callback: Received) -> None:
    parts = dict(part.split("=") for part in callback.headers["sandbox-signature"].split(","))
    expected = hmac.new(CALLBACK_SECRET.encode(), parts["t"].encode() + b"." + callback.body, hashlib.sha256).hexdigest()
    assert parts["v1"] == expected
    assert abs(time.time() - int(parts["t"])) < 10


def test_a_later_effect_is_announced_by_a_signed_callback(sandbox: RunningSandbox, reference: str) -> None:
    """Only what the first answer could not say is announced, with the answer as it is now."""
    with receiving() as receiver:
        sandbox.set(callback_url=receiver.url)
        charge = sandbox.operate("sale", reference, card="refund_pending").json["charge"]
        sandbox.operate("refund", f"{reference}-r", charge=charge)
        (callback,) = eventually(lambda: receiver.about(f"{reference}-r"))

    assert_signed(callback)
    event = json.loads(callback.body)
    assert event["id"].startswith("sbevt_")
    assert event["type"] == "operation.updated"
    assert event["data"] == sandbox.look_up(f"{reference}-r").json


def test_a_challenge_is_announced(sandbox: RunningSandbox, reference: str) -> None:
    """The end of a challenge comes by callback even when the browser never returns."""
    with receiving() as receiver:
        sandbox.set(callback_url=receiver.url)
        first = sandbox.operate("sale", reference, card="authentication_required")
        choose(sandbox, first.json["redirect_url"], "approve")
        callbacks = eventually(lambda: receiver.about(reference))

    assert [json.loads(callback.body)["data"]["status"] for callback in callbacks] == ["captured"]


def test_a_callback_is_tried_again(sandbox: RunningSandbox, reference: str) -> None:
    """A receiver that fails is sent the same event again, signed anew."""
    with receiving(500, 302, 200) as receiver:
        sandbox.set(callback_url=receiver.url, callbacks="all")
        sandbox.operate("sale", reference)
        eventually(lambda: len(receiver.about(reference)) == 3)

    assert len({callback.body for callback in receiver.about(reference)}) == 1
    assert_signed(receiver.about(reference)[-1])


def test_callbacks_can_be_all_or_none(sandbox: RunningSandbox, reference: str) -> None:
    """`all` announces plain outcomes too, declines included; `none` keeps silent about everything."""
    with receiving() as receiver:
        sandbox.set(callback_url=receiver.url, callbacks="all")
        sandbox.operate("sale", f"{reference}-1")
        sandbox.operate("sale", f"{reference}-2", card="declined")
        eventually(lambda: receiver.about(f"{reference}-1") and receiver.about(f"{reference}-2"))
        sandbox.set(callbacks="none")
        first = sandbox.operate("sale", f"{reference}-3", card="authentication_required")
        choose(sandbox, first.json["redirect_url"], "approve")
        time.sleep(0.2)

    assert [len(receiver.about(f"{reference}-{number}")) for number in (1, 2, 3)] == [1, 1, 0]
