"""Logs and spans of one process, from its first line to its last."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import conninfo_to_dict

from app.infra import logs
from app.infra.telemetry import spans
from app.settings import Settings


@contextmanager
def observing(settings: Settings, process: str) -> Iterator[None]:
    """Around everything that a process does; what has not left when it ends leaves then. `process`: web, worker, clock."""
    logs.configure(process=process, level=settings.log_level, readable=settings.log_format == "readable", secrets=secrets_of(settings))
    try:
        if settings.otel_exporter != "none":
            # Late: whoever exports nothing does not load the SDK.
            from app.infra.telemetry.export import SpanExport  # noqa: PLC0415

            spans.exporter = SpanExport(settings.otel_exporter, process=process)
        yield
    finally:
        if spans.exporter is not None:
            exporter, spans.exporter = spans.exporter, None
            exporter.close()
        logs.flush()


def secrets_of(settings: Settings) -> set[str]:
    """What may stand in no line, as it would stand there."""
    urls = (settings.database_url, settings.direct_database_url)
    passwords = {str(conninfo_to_dict(url).get("password") or "") for url in urls}
    keys = {settings.server_key.decode(errors="ignore"), settings.metrics_token, settings.sandbox_key, settings.sandbox_callback_secret}
    return {secret for secret in passwords | keys if secret}
