"""The road without its worker: requests go through the actions, and the test says what the provider answered."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

from app.core.clock import now
from app.core.ids import Id
from app.infra.db import Connection, connect, open_pool
from app.payments import intent_actions, payment_actions, store
from app.payments.affected import Affected
from app.payments.asking import Asking, Waited
from app.payments.model import Intent, Operation, Payment, Refund
from app.payments.moves import Moves
from app.payments.outcome import apply
from app.payments.road import Road, open_road
from app.payments.write import write
from app.providers.base import Approved, Declined, Outcome
from app.providers.codes import DECLINES
from app.providers.configured import configured
from app.providers.registry import Registry
from app.settings import Settings, read_settings

MERCHANT = "0190a5dac0007000800000000000000a"
CHARGE = "ch_1"


class Standing(NamedTuple):
    """A payment and what belongs to it, as they are now."""

    intent: Intent
    payment: Payment
    operation: Operation
    refund: Refund | None


class Counter:
    """Where a merchant asks and a provider answers."""

    def __init__(self, road: Road, writer: Connection) -> None:
        self.road = road
        self.writer = writer

    def asking(self, key: str | None = None) -> Asking:
        return Asking(MERCHANT, livemode=False, actor="test", route="POST /v1/x", idempotency_key=key, fingerprint=b"")

    async def intent(self, **fields: Any) -> Id:
        given = {"amount": 10000, "currency": "EUR", "capture_method": "automatic", **fields}
        intent_id, _ = await intent_actions.create(self.road, self.asking(), given)
        return intent_id

    async def confirm(self, intent_id: Id) -> Id:
        """The operation that was asked for."""
        return (await self.confirming(intent_id)).operation_id

    async def confirming(self, intent_id: Id, key: str | None = None) -> Waited:
        card = {"type": "card", "token": "tok_sandbox_approved"}
        return await intent_actions.confirm(self.road, self.asking(key), intent_id, payment_method=card, return_url=None, wait_seconds=0)

    async def sale(self, **fields: Any) -> Id:
        return await self.confirm(await self.intent(**fields))

    async def captured(self, **fields: Any) -> Standing:
        operation_id = await self.sale(**fields)
        await self.tell(operation_id, approved())
        return await self.read(operation_id)

    async def authorized(self) -> Standing:
        operation_id = await self.sale(capture_method="manual")
        await self.tell(operation_id, approved())
        return await self.read(operation_id)

    async def refund(self, payment_id: Id, amount: int | None = None) -> Id:
        asked = await payment_actions.refund(
            self.road, self.asking(), payment_id, amount=amount, reason=None, metadata=None, wait_seconds=0
        )
        return asked.operation_id

    async def capture(self, payment_id: Id, amount: int | None = None) -> Id:
        return (await payment_actions.capture(self.road, self.asking(), payment_id, amount=amount, wait_seconds=0)).operation_id

    async def void(self, payment_id: Id) -> Id:
        return (await payment_actions.void(self.road, self.asking(), payment_id, wait_seconds=0)).operation_id

    async def cancel(self, intent_id: Id) -> None:
        canceled = await payment_actions.cancel(self.road, self.asking(), intent_id, wait_seconds=0)
        assert canceled.key.object_id == intent_id
        assert not isinstance(canceled, Waited) or canceled.operation_id

    async def tell(
        self, operation_id: Id, outcome: Outcome, *, at: datetime | None = None, asked_at: datetime | None = None, looked_up: bool = False
    ) -> bool:
        """Apply what the provider says, whoever brought it; False when nothing moved."""
        async with self.writer.transaction():
            moves = Moves(now=at or now(), actor="test")
            affected = await self._locked(operation_id)
            affected.asked_at, affected.looked_up = asked_at, looked_up
            moved = apply(moves, affected, outcome)
            await write(self.writer, moves)
        return moved

    async def read(self, operation_id: Id) -> Standing:
        affected = await self._locked(operation_id)
        return Standing(affected.intent, affected.payment, affected.operation, affected.refund)

    async def open_operation(self, payment_id: Id) -> Operation:
        """The one that is still open."""
        (found,) = [one for one in await store.read_operations_of(self.writer, payment_id) if one.is_open]
        return found

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return await (await self.writer.execute(query.encode(), values)).fetchall()

    async def _locked(self, operation_id: Id) -> Affected:
        operation = await store.read_operation(self.writer, operation_id)
        assert operation is not None
        payment = await store.read_payment(self.writer, operation.payment_id)
        intent = await store.read_intent(self.writer, operation.payment_intent_id)
        assert payment is not None
        assert intent is not None
        refund = await store.read_refund(self.writer, operation.refund_id) if operation.refund_id else None
        return Affected(operation=operation, payment=payment, intent=intent, refund=refund)


def approved(amount: int = 10000, **changes: Any) -> Approved:
    return Approved(**{"provider_ref": CHARGE, "amount": amount, "currency": "EUR", **changes})


def declined(reason: str = "do_not_honor") -> Declined:
    return Declined(reason=reason, message=DECLINES[reason].message, provider_ref=CHARGE)


def settings_of(database: str) -> Settings:
    """Nothing listens at the provider's address."""
    return read_settings({"ENVIRONMENT": "test", "DATABASE_URL": database, "SANDBOX_URL": "http://127.0.0.1:9"})


@asynccontextmanager
async def opened(database: str, registry: Registry | None = None) -> AsyncIterator[Counter]:
    """With the configured providers unless others are given. No worker runs that could ask them."""
    settings = settings_of(database)
    registry = registry or configured(settings)
    async with (
        open_pool(database, role="tollgate_app", size=4) as pool,
        await connect(database, role="tollgate_writer") as writer,
        open_road(settings, pool=pool, registry=registry) as road,
    ):
        yield Counter(road, writer)
    await registry.close()
