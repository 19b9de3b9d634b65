import time

import pytest

from tests.sandbox.running import RunningSandbox, eventually

DECLINED = {
    "declined": ("do_not_honor", "05"),
    "insufficient_funds": ("insufficient_funds", "51"),
    "expired_card": ("expired_card", "54"),
    "lost_card": ("lost_card", "41"),
    "incorrect_cvc": ("incorrect_cvc", "N7"),
    "processing_error": ("processing_error", "96"),
}


@pytest.mark.parametrize("card", ["approved", "disputed", "refund_pending", "refund_fails_later"])
def test_a_sale_with_an_approved_card_captures(sandbox: RunningSandbox, reference: str, card: str) -> None:
    """A sale answers captured with everything asked echoed, and is one line of the journal."""
    reply = sandbox.operate("sale", reference, card=card, amount=1234, currency="EUR")

    assert reply.status == 200
    assert {name: reply.json[name] for name in ("reference", "operation", "status", "amount", "currency")} == {
        "reference": reference,
        "operation": "sale",
        "status": "captured",
        "amount": 1234,
        "currency": "EUR",
    }
    assert len(reply.json["authorization_code"]) == 6
    (effect,) = sandbox.journal(reference)
    assert (effect["kind"], effect["amount"], effect["currency"]) == ("sale", 1234, "EUR")
    assert effect["at"].endswith("Z")


@pytest.mark.parametrize("operation", ["sale", "authorize"])
@pytest.mark.parametrize("card", DECLINED)
def test_a_declined_card_is_402_with_its_code_and_no_effect(sandbox: RunningSandbox, reference: str, card: str, operation: str) -> None:
    """A refusal says why, is found by a look-up, and leaves no line in the journal."""
    reply = sandbox.operate(operation, reference, card=card)

    assert reply.status == 402
    assert (reply.json["status"], reply.json["decline_code"], reply.json["network_code"]) == ("declined", *DECLINED[card])
    assert sandbox.look_up(reference).json == reply.json
    assert sandbox.journal(reference) == []


def test_an_unknown_card_is_declined(sandbox: RunningSandbox, reference: str) -> None:
    """A token that names no test card is a refusal like any other."""
    reply = sandbox.operate("sale", reference, card="nobody")

    assert (reply.status, reply.json["decline_code"]) == (402, "invalid_payment_method")


def test_a_sale_whose_capture_is_refused_leaves_the_authorization(sandbox: RunningSandbox, reference: str) -> None:
    """The answer is authorized with the refused capture inside, the journal holds an authorization, and a void lets it go."""
    reply = sandbox.operate("sale", reference, card="capture_declined")

    assert (reply.status, reply.json["status"]) == (200, "authorized")
    assert reply.json["capture"]["decline_code"] == "capture_declined"
    assert [line["kind"] for line in sandbox.journal(reference)] == ["authorize"]
    assert sandbox.operate("capture", f"{reference}-c", charge=reply.json["charge"]).json["decline_code"] == "capture_declined"
    assert sandbox.operate("void", f"{reference}-v", charge=reply.json["charge"]).json["status"] == "succeeded"


def test_a_pending_refund_succeeds_later(sandbox: RunningSandbox, reference: str) -> None:
    """First pending without an effect, then succeeded with one; meanwhile its amount cannot be refunded again."""
    charge = sandbox.operate("sale", reference, card="refund_pending").json["charge"]

    reply = sandbox.operate("refund", f"{reference}-r", charge=charge, amount=2000)
    second = sandbox.operate("refund", f"{reference}-s", charge=charge, amount=600)

    assert (reply.status, reply.json["status"]) == (200, "pending")
    assert second.json["decline_code"] == "amount_too_large"
    eventually(lambda: sandbox.look_up(f"{reference}-r").json["status"] == "succeeded")
    assert [line["amount"] for line in sandbox.journal(f"{reference}-r")] == [2000]


def test_a_refund_that_fails_later_gives_its_amount_back(sandbox: RunningSandbox, reference: str) -> None:
    """First succeeded with an effect, then declined and gone from the journal, and the amount is refundable again."""
    charge = sandbox.operate("sale", reference, card="refund_fails_later").json["charge"]

    reply = sandbox.operate("refund", f"{reference}-r", charge=charge)

    assert (reply.status, reply.json["status"]) == (200, "succeeded")
    eventually(lambda: sandbox.look_up(f"{reference}-r").json["decline_code"] == "refund_failed")
    assert sandbox.journal(f"{reference}-r") == []
    assert sandbox.operate("refund", f"{reference}-again", charge=charge).json["status"] == "succeeded"


def test_timeout_after_effect_is_never_answered_but_found(sandbox: RunningSandbox, reference: str) -> None:
    """The effect is booked at once, the connection is held and then dropped, and so is a repeat under the same key."""
    for _ in range(2):
        with pytest.raises(TimeoutError):
            sandbox.operate("sale", reference, card="timeout_after_effect", timeout=0.3)

    assert sandbox.look_up(reference).json["status"] == "captured"
    assert len(sandbox.journal(reference)) == 1
    with pytest.raises(ConnectionError):
        sandbox.operate("sale", reference, card="timeout_after_effect", timeout=5)


def test_slow_is_approved_after_its_time(sandbox: RunningSandbox, reference: str) -> None:
    """The slow card's answer and effect come late, and others do not wait for it."""
    started = time.monotonic()
    reply = sandbox.operate("sale", reference, card="slow")

    assert time.monotonic() - started >= 0.4
    assert reply.json["status"] == "captured"
