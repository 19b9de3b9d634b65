"""Everything that is configured, from environment variables into one frozen struct.

`VARIABLES` is the table: `tollgate config check` and docs/settings.md are printed from it. An error names the variable and what it
takes, never its value, since any of them may be a secret.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

# The four times that keep a payment from being sent twice. Source: DESIGN, "The outbox": handler deadline < drain < lease.
HANDLER_DEADLINE_SECONDS = 20
DRAIN_SECONDS = 25
LEASE_SECONDS = 60

# For one machine only: production refuses to start with it.
_DEVELOPMENT_KEY = b"a key that everyone knows, for development only"
_DEVELOPMENT_SANDBOX_KEY = "sandbox_key"
_SHORTEST_SECRET = 32

Environment = Literal["development", "test", "production"]


class SettingsInvalid(Exception):
    """Variables are missing or ill-formed; `problems` has one sentence for each, without values."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Field names are the variables' names in lower case, but for `host` and the like see `VARIABLES`."""

    environment: Environment
    database_url: str
    direct_database_url: str
    host: str
    port: int
    public_url: str
    server_key: bytes
    metrics_token: str
    sandbox_url: str
    sandbox_key: str
    sandbox_callback_secret: str
    webhooks_allow_loopback: bool
    worker_queues: tuple[str, ...]
    worker_threads: int
    log_level: str
    log_format: Literal["json", "readable"]
    otel_exporter: str
    handler_deadline_seconds: int = HANDLER_DEADLINE_SECONDS
    drain_seconds: int = DRAIN_SECONDS
    lease_seconds: int = LEASE_SECONDS

    def __repr__(self) -> str:
        return "Settings(…)"


class Variable(NamedTuple):
    """`default` None: required; a callable is given the fields read before it."""

    name: str
    field: str
    read: Callable[[str], Any]
    default: Any
    meaning: str
    shown_default: str
    secret: bool = False


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Raises SettingsInvalid with everything that is wrong at once. An empty variable counts as absent."""
    fields: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for variable in VARIABLES:
        _read_one(variable, environ, fields, problems)
    if not problems:
        problems = _contradictions(fields)
    if problems:
        raise SettingsInvalid(problems)
    return Settings(**fields)


def read_direct_url(environ: Mapping[str, str]) -> str:
    """The direct database url alone, for commands that need nothing else. Raises SettingsInvalid."""
    fields: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for variable in VARIABLES:
        if variable.field in {"database_url", "direct_database_url"}:
            _read_one(variable, environ, fields, problems)
    if problems:
        raise SettingsInvalid(problems)
    return str(fields["direct_database_url"])


def _read_one(variable: Variable, environ: Mapping[str, str], fields: dict[str, Any], problems: dict[str, str]) -> None:
    text = environ.get(variable.name, "").strip()
    if text:
        try:
            fields[variable.field] = variable.read(text)
        except ValueError as error:
            problems[variable.name] = str(error)
    elif variable.default is None:
        problems[variable.name] = "is required"
    else:
        try:
            fields[variable.field] = variable.default(fields) if callable(variable.default) else variable.default
        except ValueError as error:
            problems[variable.name] = str(error)
        except KeyError:
            # What it would be made of is itself wrong and reported.
            return


def _contradictions(fields: Mapping[str, Any]) -> dict[str, str]:
    if fields["environment"] == "production" and fields["webhooks_allow_loopback"]:
        return {"WEBHOOKS_ALLOW_LOOPBACK": "is refused in production: a merchant could reach this machine's own services"}
    if fields["handler_deadline_seconds"] >= fields["drain_seconds"] or fields["drain_seconds"] >= fields["lease_seconds"]:
        return {"LEASE_SECONDS": "has to be above DRAIN_SECONDS, and that above HANDLER_DEADLINE_SECONDS: else a payment may be sent twice"}
    return {}


# --- readers: text to value, ValueError says what is expected -------------------------------------------------------------------


def _database_url(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.partition("+")[0] not in {"postgres", "postgresql"}:
        raise ValueError("expected postgresql://user:password@host:port/database")
    url = f"postgresql://{rest}"
    # Late, so that `tollgate --help` does not load the driver.
    import psycopg  # noqa: PLC0415
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ValueError("expected postgresql://user:password@host:port/database, with special characters percent-encoded") from None
    return url


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        well_formed = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        well_formed = False
    if not well_formed:
        raise ValueError("expected a URL such as https://pay.example.com")
    return text.rstrip("/")


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}")
        return text.lower()

    return read


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not lowest <= int(text) <= highest:
            raise ValueError(f"expected a whole number from {lowest} to {highest}")
        return int(text)

    return read


def _truth(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("expected 1 or 0")
    return words[text.lower()]


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(re.fullmatch(r"[a-z][a-z0-9_.]*", name) for name in names):
        raise ValueError("expected names separated by commas, such as psp,psp.bulk")
    return names


def _secret(text: str) -> str:
    if len(text) < _SHORTEST_SECRET:
        raise ValueError(f"expected at least {_SHORTEST_SECRET} random characters, such as `openssl rand -hex 32` prints")
    return text


def _exporter(text: str) -> str:
    if text not in {"none", "otlp"} and not Path(text).is_absolute():
        raise ValueError("expected none, otlp or the absolute path of a file")
    return text


def _only_outside_production(value: Any) -> Callable[[Mapping[str, Any]], Any]:
    def default(fields: Mapping[str, Any]) -> Any:
        if fields["environment"] == "production":
            raise ValueError("is required in production")
        return value

    return default


def _outside_production(value: Any, *, otherwise: Any) -> Callable[[Mapping[str, Any]], Any]:
    return lambda fields: otherwise if fields["environment"] == "production" else value


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "ENVIRONMENT", "environment", _one_of("development", "test", "production"), "production",
        "production insists on every secret and refuses what is only for one machine", "production",
    ),
    Variable(
        "DATABASE_URL", "database_url", _database_url, None,
        "PostgreSQL 15 or later; `postgres://` is taken too", "required", secret=True,
    ),
    Variable(
        "DIRECT_DATABASE_URL", "direct_database_url", _database_url, lambda fields: fields["database_url"],
        "the same database without a transaction pooler between: for migrations and LISTEN", "DATABASE_URL", secret=True,
    ),
    Variable(
        "HOST", "host", str, _outside_production("127.0.0.1", otherwise="0.0.0.0"),  # noqa: S104 - a platform's router is outside
        "the address `web` listens on", "127.0.0.1; 0.0.0.0 in production",
    ),
    Variable("PORT", "port", _number(1, 65535), 8000, "the port `web` listens on", "8000"),
    Variable(
        "PUBLIC_URL", "public_url", _http_url, lambda fields: f"http://{fields['host']}:{fields['port']}",
        "where payers and providers reach `web`: return pages and callbacks are below it", "http://HOST:PORT",
    ),
    Variable(
        "SERVER_KEY", "server_key", lambda text: _secret(text).encode(), _only_outside_production(_DEVELOPMENT_KEY),
        "secrets of webhooks and of payers' browsers are derived from it: changing it changes them all",
        "required in production", secret=True,
    ),
    Variable(
        "METRICS_TOKEN", "metrics_token", str, "",
        "the bearer token that /metrics asks for", "no token is asked for", secret=True,
    ),
    Variable("SANDBOX_URL", "sandbox_url", _http_url, "http://127.0.0.1:8090", "the sandbox provider", "http://127.0.0.1:8090"),
    Variable(
        "SANDBOX_KEY", "sandbox_key", str, _outside_production(_DEVELOPMENT_SANDBOX_KEY, otherwise=""),
        "the API key at the sandbox provider", "none in production", secret=True,
    ),
    Variable(
        "SANDBOX_CALLBACK_SECRET", "sandbox_callback_secret", str, _outside_production("sandbox_development_callbacks", otherwise=""),
        "verifies what the sandbox provider calls back with", "none in production", secret=True,
    ),
    Variable(
        "WEBHOOKS_ALLOW_LOOPBACK", "webhooks_allow_loopback", _truth, False,
        "1: webhooks may go to this machine, and over http; refused in production", "0",
    ),
    Variable(
        "WORKER_QUEUES", "worker_queues", _names, (),
        "the queues that `worker` takes when its command line names none, separated by commas", "all",
    ),
    Variable("WORKER_THREADS", "worker_threads", _number(1, 64), 2, "threads that hand rows to a worker's event loop", "2"),
    Variable("LOG_LEVEL", "log_level", _one_of("debug", "info", "warning", "error"), "info", "the least that is logged", "info"),
    Variable("LOG_FORMAT", "log_format", _one_of("json", "readable"), "json", "json: one object a line; readable: for a terminal", "json"),
    Variable(
        "OTEL_TRACES_EXPORTER", "otel_exporter", _exporter, "none",
        "otlp sends spans where OTEL_EXPORTER_OTLP_ENDPOINT says; an absolute path appends them to that file", "none",
    ),
    Variable(
        "HANDLER_DEADLINE_SECONDS", "handler_deadline_seconds", _number(1, 3600), HANDLER_DEADLINE_SECONDS,
        "the longest that one row may be worked on", "20",
    ),
    Variable(
        "DRAIN_SECONDS", "drain_seconds", _number(1, 3600), DRAIN_SECONDS,
        "how long a process that is told to end finishes what it has begun", "25",
    ),
    Variable(
        "LEASE_SECONDS", "lease_seconds", _number(1, 3600), LEASE_SECONDS,
        "after this long a row whose worker has vanished is taken by another", "60",
    ),
)  # fmt: skip
