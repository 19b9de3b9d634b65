"""The providers this installation has, from its settings: with the adapters, the only place that names one."""

from app.providers.registry import Registry, Route
from app.providers.sandbox import SandboxAdapter
from app.settings import Settings

# The sandbox's cards as tokens, one for each row of the table in API.md.
SANDBOX_TOKENS = frozenset(
    f"tok_sandbox_{name}"
    for name in (
        "approved",
        "declined",
        "insufficient_funds",
        "expired_card",
        "lost_card",
        "incorrect_cvc",
        "processing_error",
        "authentication_required",
        "declined_after_authentication",
        "disputed",
        "refund_pending",
        "refund_fails_later",
        "capture_declined",
        "timeout_after_effect",
        "slow",
    )
)


def configured(settings: Settings) -> Registry:
    """Belongs to one event loop: adapters keep connections. Close it when the loop ends."""
    sandbox = SandboxAdapter(url=settings.sandbox_url, key=settings.sandbox_key, callback_secret=settings.sandbox_callback_secret)
    return Registry({sandbox.name: sandbox}, (Route(provider=sandbox.name, livemode=False),), test_tokens=SANDBOX_TOKENS)
