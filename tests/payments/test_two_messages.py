"""A provider that cannot authorize and capture in one message is asked twice; the merchant asks once."""

from app.core.ids import Id, typeid
from tests.payments.test_outcome import assert_books_balance
from tests.payments.worker import Shift, at_work, sandbox_adapter
from tests.sandbox.running import RunningSandbox


async def asked_of(shift: Shift, sandbox: RunningSandbox, operation_id: Id) -> list[tuple[str, int]]:
    """What the provider did about the payment, in order."""
    payment_id = (await shift.counter.read(operation_id)).payment.id
    found = await shift.counter.rows("SELECT id FROM operations WHERE payment_id = %s::uuid ORDER BY requested_at, id", payment_id)
    return [(line["kind"], line["amount"]) for (id_,) in found for line in sandbox.journal(typeid("op", id_))]


async def test_automatic_capture_at_a_provider_without_a_sale_captures_what_was_authorized(database: str, sandbox: RunningSandbox) -> None:
    """The whole amount, once, without a word from the merchant; then the intent has succeeded."""
    async with at_work(database, sandbox_adapter(sandbox, sale=False)) as shift:
        operation = await shift.counter.sale(capture_method="automatic")
        await shift.worker.run()
        standing = await shift.counter.read(operation)

        assert standing.operation.type == "authorize"
        assert (standing.payment.status, standing.payment.amount_captured, standing.intent.status) == ("captured", 10000, "succeeded")
        assert await asked_of(shift, sandbox, operation) == [("authorize", 10000), ("capture", 10000)]
        await assert_books_balance(shift.counter, database)


async def test_manual_capture_at_a_provider_without_a_sale_waits_for_the_merchant(database: str, sandbox: RunningSandbox) -> None:
    """What was only to be held is not taken."""
    async with at_work(database, sandbox_adapter(sandbox, sale=False)) as shift:
        operation = await shift.counter.sale(capture_method="manual")
        await shift.worker.run()
        standing = await shift.counter.read(operation)

        assert (standing.payment.status, standing.payment.pending_operation, standing.intent.status) == ("authorized", None, "authorized")
        assert await asked_of(shift, sandbox, operation) == [("authorize", 10000)]


async def test_a_canceled_intent_is_not_captured_after_its_authorization(database: str, sandbox: RunningSandbox) -> None:
    """Canceled while the provider was asked: what was authorized is let go, and no capture comes between."""
    async with at_work(database, sandbox_adapter(sandbox, sale=False)) as shift:
        operation = await shift.counter.sale(capture_method="automatic")
        await shift.counter.cancel((await shift.counter.read(operation)).intent.id)
        await shift.worker.run()
        standing = await shift.counter.read(operation)

        assert (standing.payment.status, standing.intent.status) == ("voided", "canceled")
        assert await asked_of(shift, sandbox, operation) == [("authorize", 10000), ("void", 10000)]
        await assert_books_balance(shift.counter, database)
