"""The sandbox provider as its clients meet it: a process of its own, spoken to over HTTP."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

KEY = "key_of_the_tests"
CALLBACK_SECRET = "secret_of_the_tests"
START_SECONDS = 20

T = TypeVar("T")


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RunningSandbox:
    def __init__(self, data: Path, *options: str) -> None:
        command = [sys.executable, "-m", "sandbox", "--data", str(data), *options]
        environ = {**os.environ, "SANDBOX_KEY": KEY, "SANDBOX_CALLBACK_SECRET": CALLBACK_SECRET}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the sandbox ended with {self.process.wait(START_SECONDS)} before it was ready"
        self.ready: dict[str, Any] = json.loads(line)
        self.url: str = self.ready["url"]

    def call(self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None, timeout: float = 10) -> Reply:
        """One request on a connection of its own. `body`: bytes as they are, anything else as JSON."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port or 80, timeout=timeout)
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, body=sent, headers={"Authorization": f"Bearer {KEY}"} | (headers or {}))
            response = connection.getresponse()
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def operate(self, operation: str, reference: str, *, key: str | None = None, timeout: float = 10, **members: object) -> Reply:
        """An operation under `key`, which is the reference if none is given; a card by its name."""
        if operation in {"sale", "authorize"}:
            name = members.pop("card", "approved")
            members = {"amount": 2599, "currency": "USD", "payment_method": f"tok_sandbox_{name}", **members}
        elif operation != "void":
            members = {"amount": 2599, "currency": "USD", **members}
        headers = {"Idempotency-Key": reference if key is None else key}
        return self.call("POST", f"/v1/{operation}", {"reference": reference, **members}, headers=headers, timeout=timeout)

    def look_up(self, reference: str) -> Reply:
        return self.call("GET", f"/v1/operations/{reference}")

    def journal(self, reference: str | None = None) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.call("GET", "/journal").body.splitlines()]
        return [line for line in lines if reference in (None, line["reference"])]

    def fault(self, kind: str, operation: str, *, reference: str | None = None, **members: object) -> None:
        match = {"operation": operation} | ({} if reference is None else {"reference": reference})
        reply = self.call("POST", "/_control/faults", {"match": match, "kind": kind, **members})
        assert reply.status == 200, reply.body

    def behave(self) -> None:
        assert self.call("DELETE", "/_control/faults").status == 204

    def set(self, **settings: object) -> None:
        reply = self.call("POST", "/_control/settings", settings)
        assert reply.status == 200, reply.body

    def kill(self) -> None:
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        try:
            return self.process.wait(START_SECONDS)
        finally:
            self.process.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()


@contextmanager
def running_sandbox(data: Path, *options: str) -> Iterator[RunningSandbox]:
    sandbox = RunningSandbox(data, *options)
    try:
        yield sandbox
    finally:
        sandbox.stop()


def eventually(ask: Callable[[], T], *, within_seconds: float = 10) -> T:
    """What `ask` returns as soon as it is truthy."""
    deadline = time.monotonic() + within_seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found
