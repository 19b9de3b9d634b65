"""What can be told to the sandbox, on its command line or while it runs."""

from typing import Annotated, Any, Literal

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    api_key: Annotated[str, msgspec.Meta(min_length=1)]
    public_url: str = ""
    # False: a repeat under the same key is a new effect, as at a provider that knows no keys.
    honour_idempotency_keys: bool = True
    callback_url: str = ""
    callback_secret: str = ""
    # late: only what the first answer could not say (3-D Secure, pending and failing refunds); all: every outcome.
    callbacks: Literal["late", "all", "none"] = "late"
    # How long a pending refund takes to succeed, or a refund that fails later to fail.
    later_seconds: Seconds = 2.0
    slow_seconds: Seconds = 5.0
    # How long a connection that will never be answered stays open.
    hold_seconds: Seconds = 60.0


def changed(settings: Settings, patch: bytes) -> Settings:
    """The settings with some members replaced. Raises msgspec.DecodeError or ValidationError."""
    members: dict[str, Any] = msgspec.json.decode(patch, type=dict[str, Any])
    return msgspec.convert(msgspec.structs.asdict(settings) | members, Settings)


def shown(settings: Settings) -> dict[str, Any]:
    """Everything but the secrets."""
    members = msgspec.structs.asdict(settings)
    del members["api_key"], members["callback_secret"]
    return members
