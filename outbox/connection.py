"""The engine's own connections: autocommit, every statement prepared, plans pinned to the indexes."""

from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# A plan made while the outbox is empty would stay and scan it when it holds a million rows; the only plan left is the index.
# A claim that hangs for 15 s is a dead server; keepalives find one that went without a word.
SESSION = (
    "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_mergejoin=off -c enable_hashjoin=off"
    " -c statement_timeout=15000 -c idle_in_transaction_session_timeout=10000 -c timezone=UTC"
)
KEEPALIVE = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "connect_timeout": "5",
}


def conninfo(url: str, *, application_name: str = "outbox") -> str:
    """`url` with our session settings; what the url itself says (a role, a timeout) stays in force."""
    given: dict[str, Any] = {"application_name": application_name, **KEEPALIVE, **conninfo_to_dict(url)}
    # Round trips read and write UTF-8, whatever the database or the environment would have by themselves.
    given["client_encoding"] = "utf8"
    given["options"] = f"{SESSION} {given.get('options') or ''}".strip()
    return make_conninfo(**given)


async def connect(url: str, *, application_name: str = "outbox") -> AsyncConnection[Any]:
    """Raises psycopg.OperationalError."""
    return await AsyncConnection.connect(conninfo(url, application_name=application_name), autocommit=True, prepare_threshold=0)
