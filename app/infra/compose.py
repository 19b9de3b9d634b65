"""Composed reads: SQLAlchemy Core builds the statement, our own connections run it."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import psycopg as dialect

from app.core.ids import Id, first_id_at
from app.infra.db import Connection

_DIALECT = dialect.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's dialect has no annotations


async def fetch(connection: Connection, statement: sa.Select[Any]) -> list[tuple[Any, ...]]:
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    cursor = await connection.execute(str(compiled), compiled.params, prepare=False)
    return await cursor.fetchall()


def table(name: str, columns: Sequence[str]) -> sa.TableClause:
    return sa.table(name, *(sa.column(column) for column in columns))


async def page_of(
    connection: Connection,
    source: sa.TableClause,
    *,
    equal: Mapping[str, Any],
    created: Mapping[str, Any],
    limit: int,
    starting_after: Id | None,
    ending_before: Id | None,
) -> tuple[list[tuple[Any, ...]], bool]:
    """A page of rows, newest first, and whether there are more in the direction that was asked.

    `id` is a UUIDv7, so it is the order of creation and carries the bounds on `created_at` (`gte`, `gt`, `lte`, `lt`) into the index.
    """
    statement = sa.select(*source.c)
    for name, value in equal.items():
        statement = statement.where(_column(source, name) == _bound(name, value))
    for bound, moment in created.items():
        statement = statement.where(_compare(source.c.created_at, bound, moment))
        if bound in ("gte", "gt"):
            statement = statement.where(source.c.id >= _uuid(first_id_at(moment)))
    backwards = ending_before is not None
    if starting_after is not None:
        statement = statement.where(source.c.id < _uuid(starting_after))
    if ending_before is not None:
        statement = statement.where(source.c.id > _uuid(ending_before))
    order = source.c.id.asc() if backwards else source.c.id.desc()
    rows = await fetch(connection, statement.order_by(order).limit(limit + 1))
    more = len(rows) > limit
    rows = rows[:limit]
    return (rows[::-1] if backwards else rows), more


def _column(source: sa.TableClause, name: str) -> sa.ColumnElement[Any]:
    return source.c[name]


def _compare(column: sa.ColumnElement[Any], bound: str, value: Any) -> sa.ColumnElement[bool]:
    given: sa.BindParameter[Any] = sa.bindparam(None, value)
    return {"gte": column >= given, "gt": column > given, "lte": column <= given, "lt": column < given}[bound]


def _bound(name: str, value: Any) -> sa.ColumnElement[Any]:
    return _uuid(value) if name.endswith("_id") else sa.bindparam(None, value)


def _uuid(value: Id) -> sa.ColumnElement[Any]:
    return sa.cast(sa.bindparam(None, value, type_=sa.Text()), sa.UUID(as_uuid=False))
