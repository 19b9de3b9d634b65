"""What the provider does with each request: pure decisions over a charge and a card."""

import msgspec

from sandbox.cards import AUTHENTICATION_FAILED, CAPTURE_DECLINED, CARDS, REFUND_FAILED, CardFacts, Decline, TestCard
from sandbox.model import Answer, CaptureAnswer, CaptureRequest, Charge, ChargeRequest, OperationType, RefundRequest, Verdict, VoidRequest

INVALID_PAYMENT_METHOD = Decline("invalid_payment_method", None, "No such payment method")
CHARGE_NOT_FOUND = Decline("charge_not_found", None, "No such charge")
CHARGE_NOT_AUTHORIZED = Decline("charge_not_authorized", None, "The charge is not an open authorization")
CHARGE_NOT_CAPTURED = Decline("charge_not_captured", None, "Nothing of the charge was captured")
AMOUNT_TOO_LARGE = Decline("amount_too_large", None, "More than what is left of the charge, or in another currency")
CANCELED = Decline("canceled", None, "Voided before the payer passed the challenge")


def found_charge(operation: OperationType, asked: ChargeRequest, *, suffix: str, challenge_url: str) -> Verdict:
    """A new sale or authorization. `suffix` makes its ids; needs nothing from the book."""
    charge = Charge(
        id="ch_" + suffix,
        token=asked.payment_method,
        operation=operation,
        state="declined",
        amount=asked.amount,
        currency=asked.currency,
        return_url=asked.return_url,
    )
    answer = Answer(
        id="sbop_" + suffix,
        charge=charge.id,
        reference=asked.reference,
        operation=operation,
        status="declined",
        amount=asked.amount,
        currency=asked.currency,
    )
    card = CARDS.get(asked.payment_method)
    if card is None:
        return Verdict(answer=_refused(answer, INVALID_PAYMENT_METHOD), charge=charge)
    if card.decline is not None:
        return Verdict(answer=_refused(answer, card.decline, card=card.facts), charge=charge)
    if card.challenge:
        waiting = msgspec.structs.replace(answer, status="requires_action", redirect_url=challenge_url + charge.id, card=card.facts)
        return Verdict(answer=waiting, charge=msgspec.structs.replace(charge, state="requires_action"))
    return _granted(answer, charge, card)


def pass_challenge(answer: Answer, charge: Charge, *, approved: bool) -> Verdict:
    """The payer came back from the challenge. `answer` is that of the sale or authorization."""
    card = CARDS[charge.token]
    answer = msgspec.structs.replace(answer, redirect_url=None)
    decline = card.declined_after_challenge if approved else AUTHENTICATION_FAILED
    if decline is not None:
        return Verdict(answer=_refused(answer, decline, card=card.facts), charge=msgspec.structs.replace(charge, state="declined"))
    return _granted(answer, charge, card)


def capture(asked: CaptureRequest, charge: Charge | None, *, suffix: str) -> Verdict:
    """One capture per charge; what it leaves of the authorization is let go."""
    answer = _answer_about("capture", asked.reference, charge_id=asked.charge, amount=asked.amount, currency=asked.currency, suffix=suffix)
    if charge is None:
        return Verdict(answer=_refused(answer, CHARGE_NOT_FOUND))
    if charge.state != "authorized":
        return Verdict(answer=_refused(answer, CHARGE_NOT_AUTHORIZED))
    if asked.amount > charge.amount or asked.currency != charge.currency:
        return Verdict(answer=_refused(answer, AMOUNT_TOO_LARGE))
    declined = CARDS[charge.token].capture_declined
    if declined is not None:
        return Verdict(answer=_refused(answer, declined))
    return Verdict(answer=answer, charge=msgspec.structs.replace(charge, state="captured", captured=asked.amount), effect="capture")


def void(asked: VoidRequest, charge: Charge | None, *, suffix: str) -> Verdict:
    """Lets the whole authorization go. Calling off a challenge is a success too, but no effect: nothing was held."""
    amount, currency = (charge.amount, charge.currency) if charge else (0, "XXX")
    answer = _answer_about("void", asked.reference, charge_id=asked.charge, amount=amount, currency=currency, suffix=suffix)
    if charge is None:
        return Verdict(answer=_refused(answer, CHARGE_NOT_FOUND))
    if charge.state not in {"authorized", "requires_action"}:
        return Verdict(answer=_refused(answer, CHARGE_NOT_AUTHORIZED))
    effect: OperationType | None = "void" if charge.state == "authorized" else None
    return Verdict(answer=answer, charge=msgspec.structs.replace(charge, state="voided"), effect=effect)


def call_off(answer: Answer) -> Verdict:
    """What a voided challenge makes of the sale or authorization that waited for it."""
    return Verdict(answer=_refused(msgspec.structs.replace(answer, redirect_url=None), CANCELED))


def refund(asked: RefundRequest, charge: Charge | None, *, suffix: str) -> Verdict:
    answer = _answer_about("refund", asked.reference, charge_id=asked.charge, amount=asked.amount, currency=asked.currency, suffix=suffix)
    if charge is None:
        return Verdict(answer=_refused(answer, CHARGE_NOT_FOUND))
    if charge.state != "captured":
        return Verdict(answer=_refused(answer, CHARGE_NOT_CAPTURED))
    if asked.amount > charge.captured - charge.refunded or asked.currency != charge.currency:
        return Verdict(answer=_refused(answer, AMOUNT_TOO_LARGE))
    reserved = msgspec.structs.replace(charge, refunded=charge.refunded + asked.amount)
    manner = CARDS[charge.token].refund
    if manner == "pending":
        return Verdict(answer=msgspec.structs.replace(answer, status="pending"), charge=reserved, more_later=True)
    return Verdict(answer=answer, charge=reserved, effect="refund", more_later=manner == "fails_later")


def finish_refund(answer: Answer, charge: Charge) -> Verdict:
    """The later half: a pending refund succeeds, one that had succeeded fails and gives its amount back."""
    if answer.status == "pending":
        return Verdict(answer=msgspec.structs.replace(answer, status="succeeded"), effect="refund")
    given_back = msgspec.structs.replace(charge, refunded=charge.refunded - answer.amount)
    return Verdict(answer=_refused(answer, REFUND_FAILED), charge=given_back)


def _granted(answer: Answer, charge: Charge, card: TestCard) -> Verdict:
    answer = msgspec.structs.replace(answer, authorization_code=_authorization_code(charge.id), card=card.facts, status="authorized")
    held = msgspec.structs.replace(charge, state="authorized")
    if charge.operation == "authorize":
        return Verdict(answer=answer, charge=held, effect="authorize")
    if card.capture_declined is not None:
        refused = CaptureAnswer("declined", CAPTURE_DECLINED.code, CAPTURE_DECLINED.network_code, CAPTURE_DECLINED.message)
        return Verdict(answer=msgspec.structs.replace(answer, capture=refused), charge=held, effect="authorize")
    taken = msgspec.structs.replace(charge, state="captured", captured=charge.amount)
    return Verdict(answer=msgspec.structs.replace(answer, status="captured"), charge=taken, effect="sale")


def _answer_about(operation: OperationType, reference: str, *, charge_id: str, amount: int, currency: str, suffix: str) -> Answer:
    return Answer(
        id="sbop_" + suffix,
        charge=charge_id,
        reference=reference,
        operation=operation,
        status="succeeded",
        amount=amount,
        currency=currency,
    )


def _refused(answer: Answer, decline: Decline, *, card: CardFacts | None = None) -> Answer:
    return msgspec.structs.replace(
        answer,
        status="declined",
        decline_code=decline.code,
        network_code=decline.network_code,
        message=decline.message,
        card=card or answer.card,
    )


def _authorization_code(charge_id: str) -> str:
    return f"{int(charge_id[-8:], 16) % 1_000_000:06d}"
