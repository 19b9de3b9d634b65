"""Misbehaviour on request: each fault waits for matching requests and spoils as many as it was told to."""

from typing import Annotated, Any, Literal

import msgspec

# Those up to `dropped_connection` strike before anything is booked; after the others the effect stands and only the answer is spoiled.
Kind = Literal[
    "delay",
    "late_effect",
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
]
Operation = Literal["sale", "authorize", "capture", "void", "refund", "look_up"]


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operation: Operation
    reference: str | None = None


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """`delay_ms`: how long a delay or a late effect takes, or an unanswered connection is held; each kind has its own default.

    `status`: what the errors answer.
    """

    match: Match
    kind: Kind
    times: Annotated[int, msgspec.Meta(ge=1)] = 1
    delay_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] | None = None
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 500

    def delay_seconds(self, default: float) -> float:
        return default if self.delay_ms is None else self.delay_ms / 1000


class Faults:
    """In memory only: a restarted provider behaves."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def clear(self) -> None:
        self._waiting.clear()

    def waiting(self) -> list[Fault]:
        return list(self._waiting)

    def take(self, operation: str, reference: str) -> Fault | None:
        """The oldest fault that matches, used up by one."""
        for fault in self._waiting:
            if fault.match.operation == operation and fault.match.reference in (None, reference):
                fault.times -= 1
                if not fault.times:
                    self._waiting.remove(fault)
                return fault
        return None


def wrong_echo(body: bytes, kind: str) -> bytes:
    """The answer with one of its echoes falsified."""
    members: dict[str, Any] = msgspec.json.decode(body)
    if kind == "wrong_amount_echoed":
        members["amount"] = members.get("amount", 0) + 1
    elif kind == "wrong_currency_echoed":
        members["currency"] = "XTS"
    else:
        members["reference"] = "somebody_elses"
    return msgspec.json.encode(members)
