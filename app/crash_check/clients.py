"""The merchant's side: each journey asks for its steps, writes down what it was told, and asks again under the same key when it was
told nothing. An answer counts as told when it is final: 200, 201 or 402.
"""

import asyncio
import json
import time
from typing import IO, Any, NamedTuple

import aiohttp

from app.crash_check.plan import Journey

# A killed web process is back in two or three seconds.
_PAUSE_SECONDS = 0.1
# The API holds a request for ten of them.
LONGEST_PATIENCE_SECONDS = 12.0
FINAL = (200, 201, 402)
# "Not yet": the same request again is what the API asks for.
_AGAIN = frozenset({202, 429, 503})


class Told(NamedTuple):
    """A final answer, and the request that brought it."""

    journey: int
    step: str
    path: str
    body: dict[str, Any]
    key: str
    status: int
    answer: dict[str, Any]


class Refused(Exception):
    """An answer that no journey may get."""


class Clients:
    """`requests` counts every request that was sent, `unanswered` those of them that ended without a status."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, run: str, journal: IO[str]) -> None:
        self.told: list[Told] = []
        self.refused: dict[int, str] = {}
        self.requests = 0
        self.unanswered = 0
        self.begun = 0
        self._session = session
        self._url = url
        self._run = run
        self._journal = journal

    async def walk(self, journey: Journey) -> None:
        """The whole journey. What must not be answered ends it and is kept in `refused`."""
        await asyncio.sleep(journey.starts_after_seconds)
        self.begun += 1
        try:
            await self._walk(journey)
        except Refused as refused:
            self.refused[journey.number] = str(refused)

    async def _walk(self, journey: Journey) -> None:
        confirmed = await self._pay(journey)
        if not journey.charged:
            return
        path = f"/v1/payments/{confirmed.answer['payment_id']}"
        if journey.void:
            await self.ask(journey, "void", f"{path}/void", {})
        elif journey.capture is not None:
            await self.ask(journey, "capture", f"{path}/capture", {"amount": journey.capture})
        # All at once: refunds may overlap.
        await asyncio.gather(
            *(self.ask(journey, f"refund-{n}", f"{path}/refunds", {"amount": amount}) for n, amount in enumerate(journey.refunds))
        )

    async def _pay(self, journey: Journey) -> Told:
        wanted = {
            "amount": journey.amount,
            "currency": journey.currency,
            "capture_method": "manual" if journey.manual else "automatic",
            "reference": f"{self._run}-{journey.number}",
        }
        if journey.kind == "one_call":
            return await self.ask(
                journey, "create", "/v1/payment_intents", {**wanted, "payment_method": _card(journey.tokens[0]), "confirm": True}
            )
        path = f"/v1/payment_intents/{(await self.ask(journey, 'create', '/v1/payment_intents', wanted)).answer['id']}/confirm"
        attempts = [
            await self.ask(journey, f"confirm-{n}", path, {"payment_method": _card(token)}) for n, token in enumerate(journey.tokens)
        ]
        return attempts[-1]

    async def ask(self, journey: Journey, step: str, path: str, body: dict[str, Any]) -> Told:
        """Until there is a final answer. Raises Refused."""
        key = f"{self._run}-{journey.number}-{step}"
        patience = journey.patience_seconds
        while True:
            answered = await self.send(path, body, key=key, patience_seconds=patience)
            patience = min(2 * patience, LONGEST_PATIENCE_SECONDS)
            if answered is not None:
                status, answer = answered
                if status in FINAL:
                    told = Told(journey.number, step, path, body, key, status, answer)
                    self.told.append(told)
                    return told
                if not (status in _AGAIN or (status, answer.get("code")) == (409, "idempotency_in_progress")):
                    raise Refused(f"{step} was answered {status} {answer.get('code')}: {answer.get('detail')}")
            await asyncio.sleep(_PAUSE_SECONDS)

    async def send(self, path: str, body: dict[str, Any], *, key: str, patience_seconds: float) -> tuple[int, dict[str, Any]] | None:
        """One request; None when nothing came back."""
        self.requests += 1
        headers = {"Idempotency-Key": key, "Prefer": "wait=10"}
        try:
            async with self._session.post(
                self._url + path, json=body, headers=headers, timeout=aiohttp.ClientTimeout(total=patience_seconds)
            ) as response:
                answered = response.status, await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.unanswered += 1
            self._note(key, path, type(error).__name__)
            return None
        self._note(key, path, answered)
        return answered

    async def read(self, path: str) -> dict[str, Any]:
        async with self._session.get(self._url + path) as response:
            shown: dict[str, Any] = await response.json(content_type=None)
            if response.status != 200:
                raise Refused(f"GET {path} was answered {response.status}")
            return shown

    def _note(self, key: str, path: str, answered: object) -> None:
        self._journal.write(json.dumps({"at": round(time.time(), 3), "key": key, "path": path, "answered": answered}) + "\n")


def _card(token: str) -> dict[str, str]:
    return {"type": "card", "token": token}
