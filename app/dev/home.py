"""The data directory: where it is by default, what is kept in it between two starts, and who the demo merchant is."""

import hashlib
import json
import os
import secrets
import shutil
import socket
from pathlib import Path

import msgspec

from app.core.clock import now
from app.identity import actions as identity
from app.infra import embedded_postgres
from app.infra.db import Pool, open_pool

MERCHANT = "Demo merchant"
_SECRETS = "secrets.json"


class Secrets(msgspec.Struct, frozen=True):
    """What is the same at the next start on the same data: merchants' secrets hang on it, and links that were handed out."""

    server_key: str
    sandbox_callback_secret: str
    sandbox_key: str
    secret_key: str = ""
    operator_key: str = ""
    sandbox_port: int = 0


def default_directory() -> Path:
    """`.tollgate/dev` here; for root, whose database server runs as another user, a place that this one can reach."""
    here = Path.cwd() / ".tollgate" / "dev"
    if embedded_postgres.can_hold(here):
        return here
    state = Path("/var/lib") if os.geteuid() == 0 else Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    # One for each directory that it stands in for.
    return state / "tollgate" / f"{Path.cwd().name or 'top'}-{hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:8]}"


def forget(home: Path) -> None:
    """Everything but the database, by name: the directory may hold what is not ours."""
    for name in ("sandbox", "logs"):
        shutil.rmtree(home / name, ignore_errors=True)
    for name in (_SECRETS, "status.json"):
        (home / name).unlink(missing_ok=True)


def read_secrets(home: Path) -> Secrets:
    """Those of the last start, or new ones."""
    try:
        return msgspec.json.decode((home / _SECRETS).read_bytes(), type=Secrets)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Secrets(secrets.token_hex(32), secrets.token_hex(32), f"sandbox_{secrets.token_hex(16)}")


def write_secrets(home: Path, kept: Secrets) -> None:
    write_private(home / _SECRETS, msgspec.json.encode(kept))


def write_private(path: Path, content: bytes) -> None:
    """In one step, so that a reader or a crash never meets half a file; for our eyes only."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
    fresh.replace(path)


async def with_keys(url: str, kept: Secrets) -> Secrets:
    """A merchant and an operator who can come in: those of the last start where the database still knows them."""
    async with open_pool(url, role="tollgate_ops", size=1) as pool, open_pool(url, role="tollgate_writer", size=1) as reading:
        if kept.secret_key and await _opens(reading, kept.secret_key) and await _opens(reading, kept.operator_key):
            return kept
        merchant = await identity.create_merchant(pool, name=MERCHANT, now=now())
        secret = await identity.create_key(pool, "secret", now=now(), merchant_id=merchant.id, livemode=False)
        operator = await identity.create_key(pool, "operator", now=now())
    return msgspec.structs.replace(kept, secret_key=secret.token, operator_key=operator.token)


async def _opens(pool: Pool, key: str) -> bool:
    return await identity.authenticate(pool, key.encode()) is not None


def with_sandbox_port(kept: Secrets) -> Secrets:
    """The port of the last start if it is free: it stands in links to challenge pages."""
    for port in (kept.sandbox_port, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                return msgspec.structs.replace(kept, sandbox_port=probe.getsockname()[1])
        except OSError:
            continue
    raise OSError("there is no free port on 127.0.0.1")


def status_line(members: dict[str, object]) -> str:
    return json.dumps({"ready": True, **members})
