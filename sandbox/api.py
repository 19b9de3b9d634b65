"""Operations as clients ask for them: authenticate, read, misbehave if told to, book, answer."""

import asyncio
import hmac
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from sandbox.book import Book, Booked
from sandbox.callbacks import Callbacks
from sandbox.cards import CARDS
from sandbox.commits import GroupCommit
from sandbox.faults import Fault, Faults, wrong_echo
from sandbox.http import Request
from sandbox.model import (
    Answer,
    AnyRequest,
    CaptureRequest,
    ChargeRequest,
    OperationType,
    RefundRequest,
    VoidRequest,
    problem,
)
from sandbox.settings import Settings

DELAY_SECONDS: Final = 1.0
LATE_EFFECT_SECONDS: Final = 3.0
# More than any client should be willing to read.
HUGE_ANSWER_BYTES: Final = 8 * 1024 * 1024
MAX_KEY_LENGTH: Final = 255

_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "sale": msgspec.json.Decoder(ChargeRequest),
    "authorize": msgspec.json.Decoder(ChargeRequest),
    "capture": msgspec.json.Decoder(CaptureRequest),
    "void": msgspec.json.Decoder(VoidRequest),
    "refund": msgspec.json.Decoder(RefundRequest),
}


class Provider:
    """The state that requests share."""

    def __init__(self, settings: Settings, commits: GroupCommit, faults: Faults, callbacks: Callbacks) -> None:
        self.settings = settings
        self.commits = commits
        self.faults = faults
        self.callbacks = callbacks

    def operate(self, request: Request, operation: OperationType) -> None:
        if not self._authorized(request):
            return
        try:
            asked: AnyRequest = _DECODERS[operation].decode(request.body)
        except msgspec.ValidationError as error:
            request.answer(422, problem("invalid_request", str(error)))
            return
        except (msgspec.DecodeError, UnicodeDecodeError):
            request.answer(400, problem("malformed_json", "The body is not JSON."))
            return
        key = request.headers.get(b"idempotency-key", b"").decode("latin-1") or None
        if key is not None and len(key) > MAX_KEY_LENGTH:
            request.answer(422, problem("invalid_request", f"The idempotency key is longer than {MAX_KEY_LENGTH}."))
            return
        self._admit(request, operation, asked, key)

    def look_up(self, request: Request) -> None:
        if not self._authorized(request):
            return
        reference = unquote(request.path.removeprefix("/v1/operations/"))
        fault = self.faults.take("look_up", reference)

        def answer(found: bytes | Exception | None) -> None:
            if isinstance(found, Exception):
                request.answer(500, problem("internal_error", "Try again."))
            elif found is None:
                request.answer(404, problem("operation_not_found", "No operation has this reference."))
            else:
                self._answer(request, Booked(status=200, body=found), fault, held=False)

        if not self._struck_before(request, fault):
            wait = fault.delay_seconds(DELAY_SECONDS) if fault is not None and fault.kind in {"delay", "late_effect"} else 0
            _after(wait, self.commits.submit, lambda book: book.look_up(reference), answer)

    def announce(self, answer: Answer) -> None:
        if self.settings.callbacks != "none":
            self.callbacks.announce(answer, self.settings)

    def finish_at(self, seq: int, due_at: float, *, now: float) -> None:
        """Let the later half of an operation happen when it is due."""

        def announce(answer: Answer | Exception | None) -> None:
            if isinstance(answer, Exception):
                # The book could not take it; it stays due and is tried again.
                self.finish_at(seq, now + 1, now=now)
            elif answer is not None:
                self.announce(answer)

        _after(due_at - now, self.commits.submit, lambda book: book.finish_later_half(seq), announce)

    def _admit(self, request: Request, operation: OperationType, asked: AnyRequest, key: str | None) -> None:
        fault = self.faults.take(operation, asked.reference)
        if self._struck_before(request, fault):
            return
        card = CARDS.get(asked.payment_method) if isinstance(asked, ChargeRequest) else None
        wait = self.settings.slow_seconds if card is not None and card.slow else 0
        held = card is not None and not card.answers
        answered = False
        if fault is not None and fault.kind == "delay":
            wait += fault.delay_seconds(DELAY_SECONDS)
        elif fault is not None and fault.kind == "late_effect":
            wait += fault.delay_seconds(LATE_EFFECT_SECONDS)
            request.answer(504, problem("timeout", "The operation may still be carried out."))
            answered = True
        if not self.settings.honour_idempotency_keys:
            key = None
        later_seconds = self.settings.later_seconds

        def book_it(book: Book) -> Booked:
            return book.operate(operation, asked, key=key, later_seconds=later_seconds)

        def tell(booked: Booked | Exception) -> None:
            if isinstance(booked, Exception):
                booked = Booked(status=500, body=problem("internal_error", "The operation may or may not have been booked."))
            self._follow(booked)
            if not answered:
                self._answer(request, booked, fault, held=held)

        _after(wait, self.commits.submit, book_it, tell)

    def _follow(self, booked: Booked) -> None:
        """Announce what the answer does not say, or everything; see to the later half."""
        if booked.changes:
            for answer in booked.changes if self.settings.callbacks == "all" else booked.changes[1:]:
                self.announce(answer)
        if booked.later is not None:
            seq, due_at = booked.later
            self.finish_at(seq, due_at, now=due_at - self.settings.later_seconds)

    def _struck_before(self, request: Request, fault: Fault | None) -> bool:
        if fault is not None and fault.kind == "error_before_effect":
            request.answer(fault.status, problem("injected_fault", "Nothing was booked."))
            return True
        if fault is not None and fault.kind == "dropped_connection":
            request.drop()
            return True
        return False

    def _answer(self, request: Request, booked: Booked, fault: Fault | None, *, held: bool) -> None:
        match fault.kind if fault is not None else None:
            case "error_after_effect" if fault is not None:
                request.answer(fault.status, problem("injected_fault", "Something went wrong."))
            case "no_answer_after_effect" if fault is not None:
                request.drop(after_seconds=fault.delay_seconds(self.settings.hold_seconds))
            case "dropped_after_effect":
                request.drop()
            case "malformed_answer":
                request.answer(200, b'{"status": "captured", "amount": ')
            case "truncated_answer":
                request.answer_torn(booked.body)
            case "huge_answer":
                request.answer(200, booked.body[:-1] + b',"padding":"' + b"x" * HUGE_ANSWER_BYTES + b'"}')
            case "wrong_amount_echoed" | "wrong_currency_echoed" | "wrong_reference_echoed" as kind:
                request.answer(booked.status, wrong_echo(booked.body, kind))
            case _ if held:
                request.drop(after_seconds=self.settings.hold_seconds)
            case _:
                replayed = (("idempotent-replayed", "true"),) if booked.replayed else ()
                request.answer(booked.status, booked.body, headers=replayed)

    def _authorized(self, request: Request) -> bool:
        given = request.headers.get(b"authorization", b"")
        if hmac.compare_digest(given, b"Bearer " + self.settings.api_key.encode()):
            return True
        request.answer(401, problem("unauthorized", "Send the API key as a bearer token."))
        return False


def _after(seconds: float, call: Any, *arguments: Any) -> None:
    if seconds > 0:
        asyncio.get_running_loop().call_later(seconds, call, *arguments)
    else:
        call(*arguments)
