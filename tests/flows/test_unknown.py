"""The provider's answer is lost, late or unreadable: what happened is found out, and nothing is asked for twice."""

import asyncio
from typing import Any

import pytest

from tests.flows.running import System
from tests.flows.shop import Json, Shop, eventually

# What may go wrong with an answer, and whether the provider had done it by then.
LOST_ANSWERS = (
    "error_before_effect",
    "dropped_connection",
    "error_after_effect",
    "no_answer_after_effect",
    "dropped_after_effect",
    "malformed_answer",
    "truncated_answer",
    "huge_answer",
    "wrong_amount_echoed",
    "wrong_currency_echoed",
    "wrong_reference_echoed",
    "late_effect",
)


async def struck(system: System) -> bool | None:
    return None if system.faults() else True


async def strike_with(shop: Shop, kind: str, operation: str, payment: Json, act: str) -> None:
    """Ask for one operation whose answer is spoiled, and return as soon as it was."""
    patience: dict[str, Any] = {"delay_ms": 300} if kind in ("no_answer_after_effect", "late_effect") else {}
    shop.system.strike(operation, kind, **patience)
    reply = await (shop.confirm(payment, prefer="wait=0") if act == "confirm" else getattr(shop, act)(payment, prefer="wait=0"))
    assert reply.status == 202, reply
    await eventually(lambda: struck(shop.system), what="the fault")


def effects(system: System, reference: str) -> list[str]:
    return [line["kind"] for line in system.journal() if line["reference"] == reference]


async def test_a_lost_answer_is_looked_up(shop: Shop) -> None:
    """The card that is charged and never answers: unknown first, then found; the caller waits and is told the truth."""
    intent = await shop.intent("timeout_after_effect")
    waiting = asyncio.create_task(shop.confirm(intent))

    async def unknown() -> Json | None:
        latest = (await shop.read(f"/v1/payment_intents/{intent['id']}"))["latest_payment"]
        payment = await shop.read(f"/v1/payments/{latest}") if latest else None
        return payment if payment and payment["latest_operation"]["status"] == "unknown" else None

    meanwhile = await eventually(unknown, what="an unknown outcome")
    reply = await waiting

    assert (meanwhile["status"], meanwhile["pending_operation"]["status"]) == ("pending_auth", "unknown")
    assert (reply.status, reply.json["status"]) == (200, "succeeded")
    assert effects(shop.system, meanwhile["pending_operation"]["id"]) == ["sale"]


@pytest.mark.parametrize("operation", ["sale", "authorize", "capture", "void", "refund"])
async def test_whatever_becomes_of_the_answer_the_effect_is_one(shop: Shop, operation: str) -> None:
    """Twelve ways to lose an answer, for each kind of operation: in the end it is done, once, and both books say so."""
    done = {"sale": "captured", "authorize": "authorized", "capture": "captured", "void": "voided", "refund": "refunded"}[operation]
    subjects: list[Json] = []
    for kind in LOST_ANSWERS:
        if operation in ("sale", "authorize"):
            subject = await shop.intent(capture_method="automatic" if operation == "sale" else "manual")
            await strike_with(shop, kind, operation, subject, "confirm")
            subjects.append(await shop.payment_of(subject))
        else:
            subject = await (shop.pay() if operation == "refund" else shop.authorize())
            await strike_with(shop, kind, operation, subject, operation)
            subjects.append(subject)

    for subject in subjects:
        after = await shop.until_payment(subject, status=done)
        assert after["latest_operation"]["status"] == "succeeded"
        assert effects(shop.system, after["latest_operation"]["id"]) == [operation]


async def test_an_unknown_capture_keeps_others_out(shop: Shop) -> None:
    """While nobody knows whether it was taken, no second capture and no void."""
    payment = await shop.authorize()
    await strike_with(shop, "error_after_effect", "capture", payment, "capture")
    payment = await shop.payment(payment)
    capture, void, cancel = (
        await shop.capture(payment),
        await shop.void(payment),
        await shop.cancel({"id": payment["payment_intent_id"]}),
    )
    after = await shop.until_payment(payment, status="captured")

    for reply in (capture, void, cancel):
        assert (reply.status, reply.json["code"]) == (409, "operation_in_progress")
    assert after["amount_captured"] == 10000


async def test_an_unknown_refund_blocks_only_its_own_amount(shop: Shop) -> None:
    """The rest can be refunded meanwhile."""
    payment = await shop.pay()
    shop.system.strike("refund", "error_after_effect")
    lost = await shop.refund(payment, 6000, prefer="wait=0")
    await eventually(lambda: struck(shop.system), what="the fault")
    too_much = await shop.refund(payment, 4001)
    rest = await shop.refund(payment, 4000)
    found = await shop.until(f"/v1/refunds/{lost.json['id']}", status="succeeded")

    assert (too_much.status, rest.status, found["amount"]) == (422, 201, 6000)
    assert (await shop.payment(payment))["status"] == "refunded"


async def test_canceling_what_nobody_knows_undoes_it_when_it_is_known(shop: Shop) -> None:
    """The cancellation waits for the look-up; time alone never calls it off."""
    intent = await shop.intent("timeout_after_effect", capture_method="manual")
    await shop.confirm(intent, prefer="wait=0")
    reply = await shop.cancel(intent)
    after = await shop.until_intent(intent, status="canceled")

    assert (reply.status, reply.json["status"]) == (202, "processing")
    assert (await shop.payment_of(after))["status"] == "voided"


async def test_a_look_up_that_fails_is_repeated(shop: Shop) -> None:
    """The provider is asked again, a little later."""
    shop.system.strike("look_up", "error_before_effect")
    shop.system.strike("sale", "error_after_effect")
    intent = await shop.intent()
    await shop.confirm(intent, prefer="wait=0")
    after = await shop.until_intent(intent, status="succeeded")

    assert effects(shop.system, (await shop.payment_of(after))["latest_operation"]["id"]) == ["sale"]


async def test_a_lost_decline_is_a_decline(shop: Shop) -> None:
    """The provider refused and its answer was lost: the look-up brings the reason."""
    shop.system.strike("sale", "error_after_effect")
    intent = await shop.intent("insufficient_funds")
    reply = await shop.confirm(intent)

    assert (reply.status, reply.json["decline_code"]) == (402, "insufficient_funds")
