"""The books of a run in which all went well, made from the plan alone: what the checks are shown before one book is falsified."""

from typing import Any

from app.core.ids import new_id, typeid
from app.crash_check.books import Announced, Effect, Operation, Ours, Posted, Received, Shown
from app.crash_check.checks import Evidence
from app.crash_check.clients import Told
from app.crash_check.plan import DECLINES, Journey, journeys

Json = dict[str, Any]


class Ideal:
    """Gathers journey by journey; `evidence` is all of it."""

    def __init__(self, payments: int, seed: int) -> None:
        self.journeys = journeys(payments, seed)
        self.told: list[Told] = []
        self.journal: list[Effect] = []
        self.operations: dict[str, Operation] = {}
        self.posted: list[Posted] = []
        self.shown: dict[int, Shown] = {}
        for journey in self.journeys:
            self._walk(journey)

    def evidence(self) -> Evidence:
        announced = {typeid("evt", new_id()): Announced("payment.created", 1, payment) for payment in self._payments()}
        return Evidence(
            journeys=self.journeys,
            told=self.told,
            refused={},
            repeated={told.key: (told.status, told.answer) for told in self.told},
            left={},
            journal=self.journal,
            ours=Ours(self.operations, self.posted, announced, 0, 0, [], False, 0),
            received=[Received(id_, event.type, event.sequence, True, 200) for id_, event in announced.items()],
            shown=self.shown,
        )

    def _payments(self) -> list[str]:
        return [payment["id"] for shown in self.shown.values() for payment in shown.payments]

    def _walk(self, journey: Journey) -> None:
        payments = [typeid("pay", new_id()) for _ in journey.tokens]
        if journey.kind == "one_call":
            self._tell(journey, "create", 201, {"status": "succeeded"}, token=journey.tokens[0])
        else:
            self._tell(journey, "create", 201, {"status": "requires_payment_method", "amount": journey.amount})
            for number, token in enumerate(journey.tokens):
                declined = {"decline_code": DECLINES.get(token), "payment_id": payments[number]}
                charged = {"status": "authorized" if journey.manual else "succeeded", "payment_id": payments[number]}
                status, answer = (402, declined) if token in DECLINES else (200, charged)
                self._tell(journey, f"confirm-{number}", status, answer, token=token)
        if journey.charged:
            self._charge(journey, payments[-1])
        states = ["failed"] * (len(payments) - 1) + [journey.payment_status]
        self.shown[journey.number] = Shown(
            {"status": journey.intent_status},
            [
                {"id": id_, "status": status, "amount_captured": journey.captured, "amount_refunded": sum(journey.refunds)}
                for id_, status in zip(payments, states, strict=True)
            ],
            [{"amount": amount, "status": "succeeded"} for amount in journey.refunds],
        )

    def _charge(self, journey: Journey, payment: str) -> None:
        self._operate(journey, payment, "authorize" if journey.manual else "sale", journey.amount)
        if journey.void:
            self._operate(journey, payment, "void", journey.amount)
            self._tell(journey, "void", 200, {"status": "voided"})
        elif journey.capture is not None:
            self._operate(journey, payment, "capture", journey.capture)
            self._tell(journey, "capture", 200, {"status": "captured", "amount_captured": journey.capture}, amount=journey.capture)
        for number, amount in enumerate(journey.refunds):
            self._operate(journey, payment, "refund", amount)
            self._tell(journey, f"refund-{number}", 201, {"status": "succeeded", "amount": amount}, amount=amount)

    def _operate(self, journey: Journey, payment: str, kind: str, amount: int) -> None:
        reference = typeid("op", new_id())
        self.operations[reference] = Operation(payment, kind, "succeeded")
        self.journal.append(Effect(kind, reference, amount, journey.currency))
        posted = {"sale": "capture", "capture": "capture", "refund": "refund"}.get(kind)
        if posted is not None:
            self.posted.append(Posted(reference, posted, journey.currency, amount))

    def _tell(self, journey: Journey, step: str, status: int, answer: Json, *, token: str | None = None, amount: int | None = None) -> None:
        body: Json = ({"payment_method": {"token": token}} if token else {}) | ({"amount": amount} if amount else {})
        self.told.append(Told(journey.number, step, "/v1/…", body, f"{journey.number}-{step}", status, answer))
