"""What a test may see and turn, from this machine only: the journal, faults, settings."""

import asyncio
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from sandbox.api import Provider
from sandbox.book import read_journal
from sandbox.faults import Fault
from sandbox.http import Request
from sandbox.model import problem
from sandbox.settings import changed, shown

_FAULT = msgspec.json.Decoder(Fault)


class Control:
    def __init__(self, provider: Provider, book_path: Path) -> None:
        self._provider = provider
        self._book_path = book_path
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, request: Request) -> None:
        if not is_local(request.peer):
            request.answer(404, problem("not_found", "No such path."))
            return
        match request.method, request.path:
            case "GET", "/journal":
                task = asyncio.get_running_loop().create_task(self._journal(request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "GET", "/_control/settings":
                _answer(request, shown(self._provider.settings))
            case "POST" | "PATCH", "/_control/settings":
                self._change_settings(request)
            case "GET", "/_control/faults":
                _answer(request, self._provider.faults.waiting())
            case "POST", "/_control/faults":
                self._add_fault(request)
            case "DELETE", "/_control/faults":
                self._provider.faults.clear()
                request.answer(204, b"")
            case _:
                request.answer(405, problem("method_not_allowed", "Not with this method."))

    async def _journal(self, request: Request) -> None:
        lines = await asyncio.get_running_loop().run_in_executor(None, read_journal, self._book_path)
        request.answer(200, lines, content_type="application/jsonl")

    def _change_settings(self, request: Request) -> None:
        try:
            self._provider.settings = changed(self._provider.settings, request.body)
        except msgspec.MsgspecError as error:
            request.answer(422, problem("invalid_settings", str(error)))
            return
        _answer(request, shown(self._provider.settings))

    def _add_fault(self, request: Request) -> None:
        try:
            fault = _FAULT.decode(request.body)
        except msgspec.MsgspecError as error:
            request.answer(422, problem("invalid_fault", str(error)))
            return
        self._provider.faults.add(fault)
        _answer(request, fault)


def _answer(request: Request, shown: Any) -> None:
    request.answer(200, msgspec.json.encode(shown))


def is_local(peer: str) -> bool:
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
