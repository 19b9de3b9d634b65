"""The arithmetic of a payment's amounts, and the secret of its intent."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.clock import now
from app.core.ids import new_id
from app.payments.model import PAYMENT, Payment, capturable, refundable, status_after_refunds
from app.payments.secrets import client_secret, is_client_secret

AT = now()
amounts = st.integers(min_value=1, max_value=999_999_999_999)
REFUNDABLE = ("captured", "partially_refunded", "won")


def payment(**changes: object) -> Payment:
    given_members: dict[str, object] = dict.fromkeys(Payment.__struct_fields__)
    zero = {"amount_captured": 0, "amount_refunded": 0, "refund_reserved": 0, "amount_disputed": 0, "fee": 0}
    return Payment(**{**given_members, "id": new_id(), "amount": 10000, "status": "captured", "created_at": AT, **zero, **changes})  # type: ignore[arg-type]


@given(captured=amounts, refunded=st.integers(min_value=0), reserved=st.integers(min_value=0), status=st.sampled_from(PAYMENT.statuses))
def test_what_can_be_refunded_was_captured_and_is_neither_returned_nor_reserved(
    captured: int, refunded: int, reserved: int, status: str
) -> None:
    """Never negative, never more than captured, and nothing at all in a status that allows none."""
    refunded %= captured + 1
    reserved %= captured - refunded + 1
    left = refundable(payment(status=status, amount_captured=captured, amount_refunded=refunded, refund_reserved=reserved))

    assert left == (captured - refunded - reserved if status in REFUNDABLE else 0)
    assert 0 <= left <= captured


@given(captured=amounts, refunded=st.integers(min_value=0))
def test_the_status_after_refunds_says_how_much_went_back(captured: int, refunded: int) -> None:
    """Nothing, a part, or all of it."""
    refunded %= captured + 1
    status = status_after_refunds(payment(amount_captured=captured), amount_refunded=refunded)

    assert status == ("captured" if refunded == 0 else "refunded" if refunded == captured else "partially_refunded")


def test_only_a_standing_authorization_can_be_captured() -> None:
    """All of it, once."""
    assert {status: capturable(payment(status=status)) for status in PAYMENT.statuses} == {
        status: 10000 if status == "authorized" else 0 for status in PAYMENT.statuses
    }


def test_a_client_secret_opens_one_intent_under_one_key() -> None:
    """Derived, so it is always the same; another intent's or another key's opens nothing."""
    intent, other, key = new_id(), new_id(), b"k" * 32
    secret = client_secret(key, intent)

    assert secret == client_secret(key, intent)
    assert is_client_secret(key, intent, secret)
    assert not any(
        is_client_secret(key, intent, wrong)
        for wrong in ("", secret[:-1], secret + "x", secret.upper(), client_secret(key, other), client_secret(b"q" * 32, intent), "é\udcff")
    )
