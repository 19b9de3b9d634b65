"""What goes wrong, by the seed: processes end by SIGKILL, and the provider answers late, wrongly or not at all."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp

from app.supervisor import Child, Supervisor

# Every worker, one of the web processes (somebody has to be there to be asked), now and then the clock.
_WEIGHTS = {"worker": 3, "web": 3, "clock": 1}
_SPARED = frozenset({"web-2"})
# A victim that still starts is waited for, but not every time: dying while starting must do no harm either.
_KILLED_WHILE_STARTING = 0.15
_PATIENCE_SECONDS = 8.0
_LOOK_SECONDS = 0.02
# However short the run, each victim dies at least so often.
LEAST_KILLS = 2

# What the provider does to some requests while processes die. The delays hold requests open, so that kills find them in flight.
_FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "delay", "delay_ms": 400, "times": 8},
    {"kind": "delay", "delay_ms": 1200, "times": 3},
    {"kind": "late_effect", "delay_ms": 700, "times": 1},
    {"kind": "error_before_effect", "times": 1},
    {"kind": "error_after_effect", "times": 1},
    {"kind": "no_answer_after_effect", "delay_ms": 800, "times": 1},
    {"kind": "dropped_connection", "times": 1},
    {"kind": "dropped_after_effect", "times": 1},
    {"kind": "malformed_answer", "times": 1},
    {"kind": "wrong_amount_echoed", "times": 1},
)
_STRUCK = ("sale", "sale", "sale", "authorize", "capture", "refund", "void")


class Nemesis:
    """`kills` counts by the process's name."""

    def __init__(self, supervisor: Supervisor, *, seed: int, show: Callable[[str], None]) -> None:
        self.kills: Counter[str] = Counter()
        self.faults = 0
        self.last_kill_at = 0.0
        self._show = show
        self._victims = [child for child in supervisor.children if child.spec.kind in _WEIGHTS and child.spec.name not in _SPARED]
        self._chance = random.Random(f"nemesis {seed}")  # noqa: S311 - repeatable, guards nothing
        self._fault_chance = random.Random(f"faults {seed}")  # noqa: S311 - as above

    async def kill(self, under_way: Callable[[], bool]) -> None:
        """Again and again while `under_way`, and until each victim has died often enough."""
        while under_way() or any(self.kills[child.spec.name] < LEAST_KILLS for child in self._victims):
            await asyncio.sleep(self._chance.uniform(0.1, 0.9))
            await self._kill(self._next())

    async def strike(self, session: aiohttp.ClientSession, sandbox_url: str, under_way: Callable[[], bool]) -> None:
        """Let the provider misbehave while `under_way`; then it behaves again."""
        while under_way():
            fault = {**self._fault_chance.choice(_FAULTS), "match": {"operation": self._fault_chance.choice(_STRUCK)}}
            async with session.post(f"{sandbox_url}/_control/faults", json=fault) as answer:
                answer.raise_for_status()
            self.faults += fault["times"]
            await asyncio.sleep(self._fault_chance.uniform(0.1, 0.6))
        async with session.delete(f"{sandbox_url}/_control/faults") as answer:
            answer.raise_for_status()

    def _next(self) -> Child:
        """One that is up, if any is; those that have died least are more likely, so that the weights hold in short runs too."""
        likely = [child for child in self._victims if child.ready] or self._victims
        weights = [_WEIGHTS[child.spec.kind] / (1 + self.kills[child.spec.name]) for child in likely]
        return self._chance.choices(likely, weights=weights)[0]

    async def _kill(self, child: Child) -> None:
        looks = 0 if self._chance.random() < _KILLED_WHILE_STARTING else round(_PATIENCE_SECONDS / _LOOK_SECONDS)
        for _ in range(looks):
            if child.ready:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        # Anywhere in what it does just now.
        await asyncio.sleep(self._chance.uniform(0.0, 0.3))
        process = child.process
        if process is not None and process.poll() is None:
            process.kill()
            self.kills[child.spec.name] += 1
            self.last_kill_at = time.monotonic()
            self._show(f"killed {child.spec.name}, process {process.pid}")
