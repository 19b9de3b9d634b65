"""The merchant's server that webhooks go to: it writes down what it is sent, byte by byte, and judges nothing.

    python -m app.crash_check.receiver --port 8602 --journal deliveries.jsonl

A line is written before its request is answered, so what the gateway takes for delivered is in the journal. Some events get a 500
when they come for the first time, so that retries are a part of every run.
"""

import argparse
import asyncio
import json
import zlib
from pathlib import Path
from typing import IO

from aiohttp import web

# One event in so many is refused once.
REFUSED_ONE_IN = 40


class Receiver:
    def __init__(self, journal: IO[str]) -> None:
        self._journal = journal
        self._refused: set[str] = set()

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.text()
        event_id = request.headers.get("webhook-id", "")
        taken = event_id in self._refused or zlib.crc32(event_id.encode()) % REFUSED_ONE_IN != 0
        self._refused.add(event_id)
        headers = {name.lower(): value for name, value in request.headers.items() if name.lower().startswith("webhook-")}
        self._journal.write(json.dumps({"headers": headers, "body": body, "answered": 200 if taken else 500}) + "\n")
        self._journal.flush()
        return web.Response(status=200 if taken else 500)


async def _serve(port: int, journal: Path) -> None:
    with journal.open("a", encoding="utf-8") as lines:
        app = web.Application()
        app.add_routes([web.post("/{path:.*}", Receiver(lines).receive)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes down every webhook it is sent.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    given = parser.parse_args()
    asyncio.run(_serve(given.port, given.journal))


if __name__ == "__main__":
    main()
