"""Which path is whose."""

import logging
from collections.abc import Callable
from typing import Final

from sandbox import challenge
from sandbox.api import Provider
from sandbox.control import Control
from sandbox.http import Request
from sandbox.model import Answer, Charge, OperationType, problem

log = logging.getLogger("sandbox.routes")

_OPERATIONS: Final[dict[str, OperationType]] = {
    "/v1/sale": "sale",
    "/v1/authorize": "authorize",
    "/v1/capture": "capture",
    "/v1/void": "void",
    "/v1/refund": "refund",
}


def routed(provider: Provider, control: Control) -> Callable[[Request], None]:
    """The function that serves every request."""

    def serve(request: Request) -> None:
        try:
            choose(request)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            request.answer(500, problem("internal_error", "Something went wrong."))

    def choose(request: Request) -> None:
        path = request.path
        operation = _OPERATIONS.get(path)
        if operation is not None and request.method == "POST":
            provider.operate(request, operation)
        elif path.startswith("/v1/operations/") and request.method == "GET":
            provider.look_up(request)
        elif path.startswith("/3ds/") and request.method in {"GET", "POST"}:
            (_show_challenge if request.method == "GET" else _take_choice)(provider, request)
        elif path == "/journal" or path.startswith("/_control/"):
            control.serve(request)
        elif path == "/healthz" and request.method == "GET":
            request.answer(200, b'{"status":"ok"}')
        elif operation is not None:
            request.answer(405, problem("method_not_allowed", "Not with this method."))
        else:
            request.answer(404, problem("not_found", "No such path."))

    return serve


def _show_challenge(provider: Provider, request: Request) -> None:
    charge_id = request.path.removeprefix("/3ds/")

    def show(found: tuple[Charge, Answer] | Exception | None) -> None:
        if found is None or isinstance(found, Exception):
            _say(request, 404, "No such payment", "This address belongs to no payment.")
        else:
            request.answer(200, challenge.page(*found), content_type="text/html; charset=utf-8", headers=challenge.HEADERS)

    provider.commits.submit(lambda book: book.challenged(charge_id), show)


def _take_choice(provider: Provider, request: Request) -> None:
    charge_id = request.path.removeprefix("/3ds/")
    approved = challenge.chosen(request.body)
    if approved is None:
        _say(request, 422, "Nothing chosen", "Go back and choose one of the two buttons.")
        return

    def send_back(found: tuple[Charge, Answer, bool] | Exception | None) -> None:
        if isinstance(found, Exception):
            _say(request, 500, "Something went wrong", "Go back and try again.")
            return
        if found is None:
            _say(request, 404, "No such payment", "This address belongs to no payment.")
            return
        charge, answer, chosen_now = found
        if chosen_now:
            provider.announce(answer)
        location = challenge.way_back(charge, answer)
        if location:
            request.answer(303, b"", content_type="text/html", headers=(*challenge.HEADERS, ("location", location)))
        else:
            _say(request, 200, "Done", "You can close this page.")

    provider.commits.submit(lambda book: book.pass_challenge(charge_id, approved=approved), send_back)


def _say(request: Request, status: int, title: str, text: str) -> None:
    page = challenge.message(title, text)
    request.answer(status, page, content_type="text/html; charset=utf-8", headers=challenge.HEADERS)
