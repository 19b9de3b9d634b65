"""The server ends connections under load, as an operator or a fail-over does."""

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.infra import embedded_postgres
from sql.migrate import migrate
from tests.faults.stage import SHORT, shopping, staged
from tests.flows.books import assert_books_agree, open_operations, rows
from tests.flows.shop import Json, Shop

pytestmark = pytest.mark.xdist_group("processes")

PAYMENTS = 40
# Everything that the processes have but the connections of this test.
TERMINATE = """
SELECT count(pg_terminate_backend(pid))
  FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'test'"""


async def insist(shop: Shop, path: str, body: Json, *, key: str) -> tuple[int, Json]:
    """As a careful client does: the same key until the answer is final. Nothing else than "not yet" may come before."""
    for _ in range(200):
        reply = await shop.post(path, body, key=key)
        if reply.status not in (202, 503):
            return reply.status, reply.json
        assert "retry-after" in reply.headers, reply
        await asyncio.sleep(0.05)
    raise AssertionError(f"{path} was never answered")


async def pay(shop: Shop, number: int) -> list[int]:
    """Create, confirm, refund half; the statuses."""
    body = {"amount": 1000 + number, "currency": "EUR", "payment_method": {"type": "card", "token": "tok_sandbox_approved"}}
    created, intent = await insist(shop, "/v1/payment_intents", body, key=f"create-{number}")
    confirmed, paid = await insist(shop, f"/v1/payment_intents/{intent['id']}/confirm", {}, key=f"confirm-{number}")
    refunded, _ = await insist(shop, f"/v1/payments/{paid['payment_id']}/refunds", {"amount": 500}, key=f"refund-{number}")
    return [created, confirmed, refunded]


async def test_ended_connections_cost_nobody_anything(database: str, tmp_path: Path) -> None:
    """All backends end every few hundred milliseconds while payments are under way: each is done once and told truthfully."""
    with staged(database, tmp_path / "stage", **SHORT) as stage:
        async with shopping(stage.system) as shop:
            await stage.start("sandbox", "web-1", "worker-1", "clock")
            paying = [asyncio.create_task(pay(shop, number)) for number in range(PAYMENTS)]
            ended = 0
            async with await psycopg.AsyncConnection.connect(database, autocommit=True, application_name="test") as connection:
                for _ in range(8):
                    await asyncio.sleep(0.25)
                    ended += (await (await connection.execute(TERMINATE.encode())).fetchone() or (0,))[0]
            statuses = await asyncio.gather(*paying)

            await asyncio.sleep(0.5)
            charges = [line["kind"] for line in stage.system.journal()]
            assert ended > 20
            assert statuses == [[201, 200, 201]] * PAYMENTS
            assert (charges.count("sale"), charges.count("refund")) == (PAYMENTS, PAYMENTS)
            assert await open_operations(stage.system, shop.merchant.id) == []
            assert await rows(stage.system, "SELECT 1 FROM dead_letters") == []
            assert all(stage.alive(name) for name in ("web-1", "worker-1", "clock"))
            await assert_books_agree(stage.system, shop.merchant.id)


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """That the server's user can enter, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory(prefix="tollgate-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory) / "postgres"


async def test_a_server_that_crashes_and_recovers_loses_nothing(server_directory: Path, tmp_path: Path) -> None:
    """An immediate shutdown under load, then recovery: whatever was told before is still so, and the rest is done once."""
    server = embedded_postgres.start(server_directory)
    try:
        migrate(server.url)
        with staged(server.url, tmp_path / "stage", **SHORT) as stage:
            async with shopping(stage.system) as shop:
                await stage.start("sandbox", "web-1", "worker-1", "clock")
                paying = [asyncio.create_task(pay(shop, number)) for number in range(PAYMENTS)]
                for _ in range(2):
                    await asyncio.sleep(0.3)
                    server.process.send_signal(signal.SIGQUIT)
                    await asyncio.to_thread(embedded_postgres.stop, server)
                    server = embedded_postgres.start(server_directory)
                statuses = await asyncio.gather(*paying)

                charges = [line["kind"] for line in stage.system.journal()]
                assert statuses == [[201, 200, 201]] * PAYMENTS
                assert (charges.count("sale"), charges.count("refund")) == (PAYMENTS, PAYMENTS)
                assert await open_operations(stage.system, shop.merchant.id) == []
                assert await rows(stage.system, "SELECT 1 FROM dead_letters") == []
                assert all(stage.alive(name) for name in ("web-1", "worker-1", "clock"))
                await assert_books_agree(stage.system, shop.merchant.id)
    finally:
        embedded_postgres.stop(server)


async def test_connections_that_ended_while_idle_are_not_handed_out(database: str, tmp_path: Path) -> None:
    """After a restart or a fail-over of the server nobody is told to come again: reads and writes find the end before they begin."""
    with staged(database, tmp_path / "stage") as stage:
        async with shopping(stage.system) as shop:
            await stage.start("sandbox", "web-1", "worker-1")
            payments = [await shop.pay() for _ in range(10)]
            await asyncio.gather(*(shop.payment(payment) for payment in payments))
            async with await psycopg.AsyncConnection.connect(database, autocommit=True, application_name="test") as connection:
                await connection.execute(TERMINATE.encode())
            await asyncio.sleep(0.3)
            replies = await asyncio.gather(
                *(shop.get(f"/v1/payments/{payment['id']}") for payment in payments), *(shop.refund(payment) for payment in payments)
            )

            assert sorted(reply.status for reply in replies) == [200] * 10 + [201] * 10
            await assert_books_agree(stage.system, shop.merchant.id)
