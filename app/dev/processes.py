"""The processes of one machine: what each is started with."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from app.dev.home import Secrets
from app.supervisor import Spec


class Plan(NamedTuple):
    home: Path
    database_url: str
    secrets: Secrets
    port: int
    # The listening socket that all web processes share: it outlives each of them, so that a restart refuses nobody.
    listening: int
    webs: int
    workers: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def sandbox_url(self) -> str:
        return f"http://127.0.0.1:{self.secrets.sandbox_port}"


def specs(plan: Plan, environ: Mapping[str, str] = os.environ) -> list[Spec]:
    ours = {**environ, **_environment(plan)}
    logs = plan.home / "logs"
    tollgate = (sys.executable, "-m", "app")
    return [
        Spec("sandbox", "sandbox", _sandbox(plan), ours, logs / "sandbox.log"),
        *(Spec("worker", f"worker-{n}", (*tollgate, "worker"), ours, logs / f"worker-{n}.log") for n in range(1, plan.workers + 1)),
        Spec("clock", "clock", (*tollgate, "clock"), ours, logs / "clock.log"),
        *(_web(plan, n, tollgate, ours, logs) for n in range(1, plan.webs + 1)),
    ]


def _web(plan: Plan, number: int, tollgate: tuple[str, ...], ours: dict[str, str], logs: Path) -> Spec:
    environment = {**ours, "TOLLGATE_LISTEN_FD": str(plan.listening)}
    return Spec("web", f"web-{number}", (*tollgate, "web"), environment, logs / f"web-{number}.log", (plan.listening,))


def _sandbox(plan: Plan) -> tuple[str, ...]:
    """A program of its own: nothing of it is imported, and its secrets come through the environment."""
    return (
        *(sys.executable, "-m", "sandbox"),
        *("--port", str(plan.secrets.sandbox_port)),
        *("--data", str(plan.home / "sandbox")),
        *("--callback-url", f"{plan.url}/v1/providers/sandbox/events"),
    )


def _environment(plan: Plan) -> dict[str, str]:
    return {
        "ENVIRONMENT": "development",
        "DATABASE_URL": plan.database_url,
        "DIRECT_DATABASE_URL": plan.database_url,
        "HOST": "127.0.0.1",
        "PORT": str(plan.port),
        "PUBLIC_URL": plan.url,
        "SERVER_KEY": plan.secrets.server_key,
        "SANDBOX_URL": plan.sandbox_url,
        "SANDBOX_KEY": plan.secrets.sandbox_key,
        "SANDBOX_CALLBACK_SECRET": plan.secrets.sandbox_callback_secret,
        "WEBHOOKS_ALLOW_LOOPBACK": "1",
        "LOG_FORMAT": "json",
        # Lines appear when they are written, and stay in order with those of a crash.
        "PYTHONUNBUFFERED": "1",
    }
