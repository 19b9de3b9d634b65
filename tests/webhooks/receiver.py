"""A merchant's server for tests and the bench: it writes down what it got and answers what it was told to.

    python -m tests.webhooks.receiver --port 8602

Any POST is journaled: `GET /journal` gives JSON Lines `{at, path, headers, body}`, `DELETE /journal` forgets them. It verifies nothing.
`POST /_control {"path": "/hook", "status": 500, "delay_ms": 0, "headers": {}, "body": "", "times": null}` sets the answer for a path
(`times`: for so many requests, null for ever), `DELETE /_control` makes everything 200 again.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class Receiver:
    def __init__(self) -> None:
        self.journal: list[dict[str, Any]] = []
        self.rules: dict[str, list[dict[str, Any]]] = {}
        self.url = ""

    def got(self, path: str | None = None) -> list[dict[str, Any]]:
        return [one for one in self.journal if path is None or one["path"] == path]

    def answer_with(self, status: int = 200, *, path: str = "/hook", times: int | None = None, **rule: Any) -> None:
        """Rules of a path are used up in the order in which they came."""
        self.rules.setdefault(path, []).append({"status": status, "times": times, **rule})

    async def receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.journal.append({"at": time.time(), "path": request.path, "headers": dict(request.headers), "body": body})
        rule = self._rule(request.path)
        if rule.get("delay_ms"):
            await asyncio.sleep(rule["delay_ms"] / 1000)
        headers = rule.get("headers") or {}
        if rule.get("endless"):
            return await self._endless(request, rule["status"])
        return web.Response(status=rule["status"], headers=headers, text=rule.get("body", ""))

    async def show_journal(self, request: web.Request) -> web.Response:
        lines = [json.dumps(one) for one in self.got(request.query.get("path"))]
        return web.Response(text="\n".join(lines) + "\n" if lines else "", content_type="application/jsonl")

    async def forget(self, _request: web.Request) -> web.Response:
        self.journal.clear()
        return web.Response(status=204)

    async def control(self, request: web.Request) -> web.Response:
        rule = await request.json()
        self.answer_with(rule.pop("status", 200), path=rule.pop("path", "/hook"), times=rule.pop("times", None), **rule)
        return web.Response(status=204)

    async def reset(self, _request: web.Request) -> web.Response:
        self.rules.clear()
        return web.Response(status=204)

    def _rule(self, path: str) -> dict[str, Any]:
        rules = self.rules.get(path, [])
        while rules:
            rule = rules[0]
            if rule["times"] is None:
                return rule
            if rule["times"] > 0:
                rule["times"] -= 1
                return rule
            rules.pop(0)
        return {"status": 200}

    async def _endless(self, request: web.Request, status: int) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1024)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(port: int = 0, host: str = "127.0.0.1", **site_options: Any) -> AsyncIterator[Receiver]:
    """A receiver on a port of its own, in this process."""
    receiver = Receiver()
    app = web.Application(client_max_size=1024 * 1024)
    app.add_routes(
        [
            web.get("/journal", receiver.show_journal),
            web.delete("/journal", receiver.forget),
            web.post("/_control", receiver.control),
            web.delete("/_control", receiver.reset),
            web.post("/{path:.*}", receiver.receive),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, host, port, **site_options)
    await site.start()
    assert site._server is not None  # the port that the system chose is not told otherwise
    chosen = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # asyncio's Server has it
    receiver.url = f"http://{host}:{chosen}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def _serve(port: int, host: str) -> None:
    async with running(port, host) as receiver:
        print(json.dumps({"ready": True, "url": receiver.url}), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A webhook receiver that journals what it gets.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    given = parser.parse_args()
    try:
        import uvloop

        uvloop.run(_serve(given.port, given.host))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
