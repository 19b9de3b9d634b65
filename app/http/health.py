"""`/healthz`, `/readyz`, `/metrics`: for the platform, not for merchants."""

import hmac

import psycopg
from prometheus_client import CONTENT_TYPE_LATEST

from app.core.errors import ServiceUnavailable, Unauthenticated
from app.http.answers import Answer, answer
from app.http.call import Call
from app.http.resources import Resources
from app.http.routes import Route
from app.identity.tokens import token_of
from app.infra.telemetry.exposition import Exposition
from sql.migrate import SchemaMismatch, check_current


async def healthz(_call: Call[None]) -> Answer:
    """The process lives"""
    return answer(200, b'{"status":"ok"}')


async def readyz(call: Call[None]) -> Answer:
    """Everything that a request needs is there; a 503 says what is not"""
    resources = call.resources
    missing = [f"{name}: {what}" for name, what in (await _checks(resources)).items() if what != "ok"]
    if missing:
        raise ServiceUnavailable(f"Not ready: {'; '.join(missing)}.")
    return answer(200, {"ready": True, "checks": dict.fromkeys(("process", "postgres", "migrations", "broker"), "ok")})


async def metrics(call: Call[None]) -> Answer:
    """Figures for Prometheus"""
    wanted = call.resources.settings.metrics_token
    given = token_of(call.headers.get(b"authorization"), None)
    if wanted and (given is None or not hmac.compare_digest(given, wanted.encode())):
        raise Unauthenticated("Send the metrics token as `Authorization: Bearer …`.")
    return answer(200, await call.resources.of(Exposition).page(), content_type=CONTENT_TYPE_LATEST)


async def _checks(resources: Resources) -> dict[str, str]:
    """The broker is a table of the same database, so it is reached when Postgres is."""
    if resources.draining:
        return {"process": "draining"}
    try:
        async with resources.ops_pool.connection(timeout=2.0) as connection:
            await check_current(connection)
    except SchemaMismatch as error:
        return {"migrations": str(error)}
    except psycopg.OperationalError:
        return {"postgres": "not reachable", "broker": "not reachable"}
    return {}


ROUTES = (
    Route("GET", "/healthz", healthz, access="nobody", answers={200: dict[str, str]}),
    Route("GET", "/readyz", readyz, access="nobody", answers={200: dict[str, bool | dict[str, str]]}, errors=(ServiceUnavailable,)),
    Route("GET", "/metrics", metrics, access="nobody", answers={200: "text/plain"}, errors=(Unauthenticated,)),
)
