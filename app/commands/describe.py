"""`tollgate states` and `tollgate config check`: what this code knows, and how it is configured."""

from collections.abc import Mapping

import psycopg

from app.core.machine import Machine
from app.payments.model import MACHINES
from app.settings import VARIABLES, SettingsInvalid, Variable, read_direct_url, read_settings
from app.webhooks.model import ENDPOINT
from sql import migrate

ALL_MACHINES = (*MACHINES, ENDPOINT)
_ROLES = ("tollgate_app", "tollgate_writer", "tollgate_ops", "tollgate_ledger")


def machine_names() -> list[str]:
    return [machine.name for machine in ALL_MACHINES]


def states(name: str | None, form: str) -> list[str]:
    """The tables of moves, as text, as Mermaid diagrams or as the rows of `state_transitions`."""
    chosen = [machine for machine in ALL_MACHINES if name in {None, machine.name}]
    if form == "sql":
        return ["INSERT INTO state_transitions (machine, event, from_status, to_status, announced) VALUES", *_sql_rows(chosen)]
    lines: list[str] = []
    for machine in chosen:
        if form == "mermaid":
            lines += [f"%% {machine.name}", machine.to_mermaid().rstrip()]
        else:
            lines += [machine.name, *(f"  {edge.source:<24} --{edge.event}--> {edge.target}" for edge in machine.edges)]
        lines.append("")
    return lines[:-1]


def config_check(environ: Mapping[str, str]) -> tuple[list[str], bool]:
    """One line for each variable and each guard of the database, never a value; and whether all is well."""
    problems: dict[str, str] = {}
    try:
        read_settings(environ)
    except SettingsInvalid as error:
        problems = error.problems
    width = max(len(variable.name) for variable in VARIABLES)
    lines = [f"{variable.name:<{width}}  {_state(variable, environ, problems)}" for variable in VARIABLES]
    if problems:
        return lines, False
    database, well = _database(read_direct_url(environ))
    return [*lines, "", *database], well


def _state(variable: Variable, environ: Mapping[str, str], problems: Mapping[str, str]) -> str:
    if variable.name in problems:
        return f"WRONG: {problems[variable.name]}"
    return "set" if environ.get(variable.name, "").strip() else f"default ({variable.shown_default})"


def _database(url: str) -> tuple[list[str], bool]:
    try:
        states = migrate.status(url)
        with psycopg.connect(url, connect_timeout=10) as connection:
            found = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(_ROLES),))}
    except psycopg.OperationalError:
        return ["database: not reachable"], False
    behind = [one.name for one in states if one.state != "applied"]
    lines = ["schema: current" if not behind else f"schema: not current ({', '.join(behind)}); run `tollgate migrate`"]
    absent = [role for role in _ROLES if role not in found]
    lines.append(f"roles: absent: {', '.join(absent)}; row-level security does not guard" if absent else "roles: all there")
    return lines, not behind and not absent


def _sql_rows(machines: list[Machine]) -> list[str]:
    rows = [
        f"    ('{row.machine}', '{row.event}', '{row.from_status}', '{row.to_status}', {str(row.announced).lower()})"
        for machine in machines
        for row in machine.sql_rows()
    ]
    return [*(f"{row}," for row in rows[:-1]), f"{rows[-1]};"]
