"""Who may call: merchants, their API keys, operators."""

from typing import Literal

import msgspec

from app.core.ids import Id

KeyKind = Literal["secret", "publishable", "operator"]

# The date of the first contract. A key is born with the newest version and keeps it until its holder asks for another.
API_VERSIONS = ("2026-11-20",)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who a request comes from. For an operator key `merchant_id` is empty and `livemode` says nothing."""

    merchant_id: Id
    # `mer_…`, as it stands in requests and answers.
    public_merchant_id: str
    merchant_name: str
    livemode: bool
    kind: KeyKind
    key_id: Id
    api_version: str


class Merchant(msgspec.Struct, frozen=True, kw_only=True):
    id: Id
    name: str
    api_version: str


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh key with its token, which is shown this once and not stored."""

    id: Id
    kind: KeyKind
    livemode: bool
    token: str


# For routes that no API key opens (checkout, callbacks, health).
NOBODY = Caller(
    merchant_id="",
    public_merchant_id="",
    merchant_name="",
    livemode=False,
    kind="publishable",
    key_id="",
    api_version=API_VERSIONS[-1],
)
