"""`/healthz`, `/readyz`, `/metrics` and the errors page: for platforms and readers, without an API key."""

import psycopg

from app.core.errors import ERRORS
from tests.http.conftest import Keys, Web, make_keys, serving, settings_for


async def test_a_living_process_says_so(web: Web) -> None:
    """`/healthz` asks nothing of the database."""
    await web.resources.ops_pool.close()

    status, _, document = await web.ask("GET", "/healthz", token="")

    assert (status, document) == (200, {"status": "ok"})


async def test_ready_means_postgres_and_migrations(web: Web) -> None:
    """`/readyz` is 200 with what it looked at."""
    status, _, document = await web.ask("GET", "/readyz", token="")

    assert (status, document["ready"], set(document["checks"].values())) == (200, True, {"ok"})


async def test_an_older_schema_is_not_ready_and_named(web: Web, database: str) -> None:
    """A migration that is missing makes 503, and the answer names it."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)")

    status, headers, document = await web.ask("GET", "/readyz", token="")

    assert (status, document["code"]) == (503, "service_unavailable")
    assert "migrations" in document["detail"]
    assert headers["retry-after"] == "1"


async def test_postgres_out_of_reach_is_not_ready(web: Web) -> None:
    """Without connections the process is alive and not ready, and says that it is Postgres."""
    await web.resources.ops_pool.close()

    status, _, document = await web.ask("GET", "/readyz", token="")

    assert (status, "postgres" in document["detail"]) == (503, True)


async def test_a_draining_process_is_not_ready(web: Web) -> None:
    """While it ends, a process asks not to be sent anything more."""
    web.resources.draining = True

    status, _, document = await web.ask("GET", "/readyz", token="")

    assert (status, "draining" in document["detail"]) == (503, True)


async def test_figures_are_for_whoever_has_the_token(database: str) -> None:
    """With METRICS_TOKEN set, `/metrics` asks for it; without, it is open to the platform."""
    nobody = Keys("", "", "", "", "")
    async with serving(settings_for(database, metrics_token="figures"), nobody) as web:
        closed, _, _ = await web.ask("GET", "/metrics", token="")
        wrong, _, _ = await web.ask("GET", "/metrics", token="other")
        status, headers, text = await web.ask("GET", "/metrics", token="figures")
    async with serving(settings_for(database), nobody) as web:
        without, _, _ = await web.ask("GET", "/metrics", token="")

    assert (closed, wrong, status, without) == (401, 401, 200, 200)
    assert headers["content-type"].startswith("text/plain")
    assert b"python_info" in text


async def test_every_code_has_its_place_on_the_errors_page(web: Web) -> None:
    """The `type` of each problem document leads to an anchor of `/docs/errors`."""
    status, headers, page = await web.ask("GET", "/docs/errors", token="")

    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert [error.code for error in ERRORS if f'id="{error.code}"'.encode() not in page] == []


async def test_uses_of_keys_are_written_now_and_then(web: Web, database: str) -> None:
    """A key's last use reaches its row by the flush, not by the request."""
    await web.ask("GET", "/v1/echoes")
    await web.resources.keys.flush()

    with psycopg.connect(database) as connection:
        used = connection.execute("SELECT kind, livemode FROM api_keys WHERE last_used_at IS NOT NULL").fetchall()

    assert used == [("secret", False)]
    assert await make_keys(database)
