"""Ways to pay as a request names them; which of them a provider takes is the registry's to say."""

from typing import Annotated, Any

import msgspec

from app.core.errors import InvalidValue

_Token = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Card(msgspec.Struct, tag_field="type", tag="card", forbid_unknown_fields=True):
    token: _Token


class BankTransfer(msgspec.Struct, tag_field="type", tag="bank_transfer", forbid_unknown_fields=True):
    country: Annotated[str, msgspec.Meta(pattern="^[A-Z]{2}$")]
    iban: Annotated[str, msgspec.Meta(min_length=5, max_length=34)] | None = None
    account_holder: _Name | None = None


class Wallet(msgspec.Struct, tag_field="type", tag="wallet", forbid_unknown_fields=True):
    wallet: Annotated[str, msgspec.Meta(pattern="^[a-z_]{2,40}$")]
    token: _Token


class Upi(msgspec.Struct, tag_field="type", tag="upi", forbid_unknown_fields=True):
    vpa: Annotated[str, msgspec.Meta(pattern="^[^@\\s]{1,200}@[a-zA-Z0-9.-]{1,50}$", max_length=255)]


class NetBanking(msgspec.Struct, tag_field="type", tag="net_banking", forbid_unknown_fields=True):
    bank: Annotated[str, msgspec.Meta(min_length=2, max_length=40)]


Method = Card | BankTransfer | Wallet | Upi | NetBanking
SavedMethod = Annotated[str, msgspec.Meta(pattern="^pm_[0-9a-z]{26}$")]


def as_stored(method: Method | str | None) -> dict[str, Any] | None:
    """The method as it stands on intents and payments. Raises InvalidValue for a saved method, which nobody can have yet."""
    if method is None:
        return None
    if isinstance(method, str):
        raise InvalidValue("There is no such payment method.", param="payment_method")
    stored: dict[str, Any] = msgspec.to_builtins(method)
    return {name: value for name, value in stored.items() if value is not None}
