"""What a payment service provider (PSP) is asked, and the closed set of what it can have answered."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal, Protocol

import msgspec

OperationType = Literal["sale", "authorize", "capture", "void", "refund"]

# The PSP holds an authorization or has charged; `void` and friends act on the charge these two made.
CHARGE_TYPES: Final[frozenset[str]] = frozenset({"sale", "authorize"})


class PspRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One operation, ready to be sent. Equal fields give an equal body, so a repeat under the same key is the same request."""

    reference: str  # ours, and the PSP's idempotency key
    type: OperationType
    amount: int
    currency: str
    token: str = ""  # sale and authorize only
    provider_ref: str = ""  # the charge at the PSP; capture, void and refund only
    merchant_reference: str = ""
    return_url: str = ""
    # False: an earlier request under this reference may have reached the PSP. A refusal of this one then proves nothing about that one.
    first_attempt: bool = True


class CardFacts(msgspec.Struct, frozen=True, kw_only=True):
    brand: str
    last4: str
    exp_month: int
    exp_year: int
    funding: str = ""


class Declined(msgspec.Struct, frozen=True, kw_only=True):
    """The PSP said no, and no money moved. `reason` is one of `codes.DECLINES`."""

    reason: str
    network_code: str = ""
    message: str = ""
    provider_ref: str = ""


class Approved(msgspec.Struct, frozen=True, kw_only=True):
    """The effect exists at the PSP. `amount` and `currency` are what it echoed, and equal what was asked unless a look-up found otherwise."""

    provider_ref: str  # always the charge, for a capture, void or refund too
    amount: int
    currency: str
    authorization_code: str = ""
    card: CardFacts | None = None
    # A sale whose authorization stands while the capture was refused.
    capture_declined: Declined | None = None


class ActionRequired(msgspec.Struct, frozen=True, kw_only=True):
    """The payer must pass a challenge first; nothing is held or charged yet."""

    provider_ref: str
    redirect_url: str


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """The PSP took it on and will say later how it went, by callback or look-up."""

    provider_ref: str


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """It may or may not have happened. Never to be read as failed; only a look-up, callback, settlement line or operator resolves it."""

    why: str


class NotFound(msgspec.Struct, frozen=True):
    """The PSP has never heard of the reference *so far*: a request still on its way may land within `settle_window_seconds`."""


Outcome = Approved | Declined | ActionRequired | Pending | Unknown


class Unavailable(Exception):
    """The PSP certainly did not act on this request: it was never sent whole, or was turned away at the door."""


class BadSignature(Exception):
    """The callback was not signed by the PSP, is too old, or is not what the PSP sends."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    sale: bool  # authorizes and captures in one message
    honours_keys: bool  # the same reference twice has one effect
    key_lifetime_seconds: int
    can_look_up: bool
    settle_window_seconds: float  # after this, "not found" means it never arrived
    methods: frozenset[str]


class ProviderEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One verified callback: what the PSP now says about the operation with our `reference`."""

    event_id: str
    reference: str
    outcome: Outcome
    occurred_at: datetime


class Adapter(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    async def send(self, request: PspRequest) -> Outcome:
        """Ask once, never repeating by itself. Raises Unavailable when the PSP certainly did not act on it."""
        ...

    async def look_up(self, reference: str) -> Outcome | NotFound:
        """What became of `reference`; Unknown when the PSP answered nothing usable. Raises Unavailable when it could not be asked."""
        ...

    def verify_event(self, headers: Mapping[str, str], raw_body: bytes) -> ProviderEvent:
        """Check the signature over the bytes as they came. Raises BadSignature."""
        ...

    async def close(self) -> None: ...
