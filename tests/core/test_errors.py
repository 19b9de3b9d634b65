import re

import pytest

from app.core import errors
from app.core.errors import ERRORS, DomainError, FieldError

# Codes that API.md promises by name; more may be in the table, none of these may go.
PROMISED = {
    "unknown_field",
    "invalid_amount",
    "currency_unsupported",
    "idempotency_key_reused",
    "idempotency_in_progress",
    "idempotency_key_expired",
    "illegal_transition",
    "operation_in_progress",
    "amount_exceeds_authorized",
    "amount_exceeds_refundable",
    "payment_declined",
    "authentication_failed",
    "no_route",
    "test_card_required",
    "secret_already_shown",
    "version_conflict",
}


def test_the_table_holds_every_refusal_once() -> None:
    """A code has one meaning, and every class of the module is in the table."""
    codes = [error.code for error in ERRORS]

    assert len(codes) == len(set(codes))
    assert set(ERRORS) == {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, DomainError)} - {DomainError}


def test_the_promised_codes_are_there() -> None:
    """What a merchant's code may compare with does not vanish."""
    assert {error.code for error in ERRORS} >= PROMISED


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_refusal_says_what_and_how_to_mend_it(error: type[DomainError]) -> None:
    """Code, status, message and remedy are sentences a developer can use."""
    assert re.fullmatch("[a-z]+(_[a-z]+)*", error.code)
    assert error.http_status in {400, 401, 402, 403, 404, 405, 406, 409, 412, 413, 415, 422, 429, 500, 503}
    assert (error.__doc__ or "").endswith(".")
    assert error.remedy.endswith(".")


def test_only_what_may_pass_later_is_retryable() -> None:
    """The same request again helps where something else has to end first, and nowhere else."""
    assert {error.code for error in ERRORS if error.retryable} == {
        "idempotency_in_progress",
        "operation_in_progress",
        "rate_limited",
        "internal_error",
        "service_unavailable",
    }


def test_the_message_is_the_docstring_until_more_is_known() -> None:
    """A refusal raised without words still speaks."""
    assert str(errors.NotFound()) == "There is no such object for this key."
    assert errors.NotFound("No payment has this id.").detail == "No payment has this id."


def test_an_instance_carries_what_the_problem_document_needs() -> None:
    """Param, several field errors, the payment concerned, and the issuer's word on trying again."""
    error = errors.PaymentDeclined("The card was declined.", decline_code="processing_error", payment_id="pay_1", retryable=True)

    assert error.extra == {"decline_code": "processing_error", "payment_id": "pay_1"}
    assert error.retryable is True
    assert errors.PaymentDeclined.retryable is False
    fields = errors.InvalidRequest(param="amount", errors=[FieldError("amount", "invalid_amount", "Not an integer.")])
    assert fields.param == "amount"
    assert fields.errors[0].code == "invalid_amount"
