"""The four machines: every event in every status, and the edges that the requirements name."""

import pytest

from app.core.errors import IllegalTransition
from app.core.machine import NONE, Machine
from app.payments.model import INTENT, MACHINES, OPERATION, PAYMENT, REFUND

# Source: requirements R001, API.md.
STATUSES = {
    "payment_intent": "requires_payment_method requires_confirmation requires_action processing authorized succeeded failed canceled expired",
    "payment": "created pending_auth authorized captured voided partially_refunded refunded disputed won lost expired failed",
    "refund": "pending succeeded failed",
    "operation": "requested succeeded declined failed unknown",
}
# Source: requirements R002.
REQUIRED = """
created pending_auth, pending_auth authorized, pending_auth failed, authorized captured, authorized voided, authorized expired,
captured refunded, captured partially_refunded, captured disputed, disputed won, disputed lost"""
# A payment that has come here moves no more, but for what is told about its operations.
ENDED = ("voided", "expired", "failed")


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_every_event_in_every_status(machine: Machine) -> None:
    """What is in the table passes, and everything else is refused by name."""
    table = {(edge.event, edge.source, edge.target): edge for edge in machine.edges}
    for source in (NONE, *machine.statuses):
        for event in machine.events:
            assert set(machine.targets(event, source)) == {t for e, s, t in table if (e, s) == (event, source)}
            for target in machine.statuses:
                if (event, source, target) in table:
                    assert machine.require(event, source, target) is table[event, source, target]
                else:
                    with pytest.raises(IllegalTransition):
                        machine.require(event, source, target)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_the_statuses_are_those_that_are_promised(machine: Machine) -> None:
    """No more and no fewer than the API names."""
    assert set(machine.statuses) == set(STATUSES[machine.name].split())


def test_the_required_moves_are_there() -> None:
    """Each arrow of the requirements."""
    arrows = {(edge.source, edge.target) for edge in PAYMENT.edges}

    assert {tuple(arrow.split()) for arrow in REQUIRED.split(",")} <= arrows


def test_what_must_never_happen_to_a_payment() -> None:
    """Captured money is not voided, what ended stays ended, and nothing is captured twice."""
    arrows = {(edge.source, edge.target) for edge in PAYMENT.edges}

    assert not {("captured", "voided"), ("captured", "authorized"), ("captured", "failed"), ("refunded", "voided")} & arrows
    assert {target for source, target in arrows if source in ENDED} == set(ENDED)
    assert all(source in ("pending_auth", "authorized") for event, source, target, _ in PAYMENT.edges if event == "captured")


def test_only_open_intents_expire() -> None:
    """And a succeeded one never moves again."""
    assert {edge.source for edge in INTENT.edges if edge.event == "expired"} == {
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
    }
    assert {edge.target for edge in INTENT.edges if edge.source == "succeeded"} == {"succeeded"}


def test_a_refund_may_fail_after_it_succeeded_and_never_succeeds_after_it_failed() -> None:
    """The issuer sends it back; it does not change its mind."""
    arrows = {(edge.source, edge.target) for edge in REFUND.edges}

    assert ("succeeded", "failed") in arrows
    assert {target for source, target in arrows if source == "failed"} == set()


def test_a_closed_operation_stays_closed() -> None:
    """But for a refund that is taken back, and a charge that was given up and went through all the same."""
    arrows = {(edge.source, edge.target) for edge in OPERATION.edges if edge.source in ("succeeded", "declined", "failed")}

    assert arrows == {("succeeded", "failed"), ("failed", "succeeded"), ("declined", "succeeded")}


def test_the_announced_events_are_those_of_the_api() -> None:
    """What merchants may subscribe to: one per edge that API.md names."""
    announced = {type_ for machine in MACHINES for type_ in machine.announced_types()}
    promised = {
        "payment_intent": "created processing requires_action payment_failed succeeded failed canceled expired",
        "payment": "created authorized captured capture_failed partially_refunded refunded voided expired failed disputed won lost",
        "refund": "created succeeded failed",
    }

    assert announced == {f"{name}.{event}" for name, events in promised.items() for event in events.split()}
