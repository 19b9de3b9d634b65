"""`tollgate migrate`."""

from app.core.clock import rfc3339
from app.settings import read_direct_url
from sql import migrate as runner


def migrate(environ: dict[str, str]) -> list[str]:
    """Apply what is missing; the lines to show."""
    warnings: list[str] = []
    applied = runner.migrate(read_direct_url(environ), on_warning=warnings.append)
    lines = [f"applied {name}" for name in applied] or ["the schema is up to date"]
    return [*(f"warning: {warning}" for warning in warnings), *lines]


def status(environ: dict[str, str]) -> tuple[list[str], bool]:
    """The lines to show, and whether the database is exactly as this code knows it."""
    states = runner.status(read_direct_url(environ))
    lines = [f"{one.state:<8} {rfc3339(one.applied_at) if one.applied_at else '-':<27} {one.name}" for one in states]
    return lines, all(one.state == "applied" for one in states)
