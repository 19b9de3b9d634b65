import pytest

from app.providers.codes import DECLINES, reason_of
from app.providers.configured import SANDBOX_TOKENS
from app.providers.registry import NoRoute, Registry, Route, UnknownProvider
from app.providers.sandbox import SandboxAdapter
from sandbox.cards import CARDS


@pytest.fixture
def registry() -> Registry:
    sandbox = SandboxAdapter(url="http://127.0.0.1:9", key="k", callback_secret="s")
    return Registry({sandbox.name: sandbox}, (Route(sandbox.name, livemode=False),))


def test_test_mode_cards_go_to_the_sandbox(registry: Registry) -> None:
    """Any currency, card only."""
    assert registry.route(livemode=False, currency="JPY", method="card").name == "sandbox"
    assert registry.route(livemode=False, currency="JPY", method="card", provider="sandbox").name == "sandbox"
    assert registry.adapter("sandbox").name == "sandbox"


@pytest.mark.parametrize(
    ("livemode", "method", "provider"), [(True, "card", ""), (False, "upi", ""), (False, "wallet", "sandbox"), (False, "card", "stripe")]
)
def test_nothing_else_has_a_route(registry: Registry, *, livemode: bool, method: str, provider: str) -> None:
    """Live mode, other methods and other providers are NoRoute."""
    with pytest.raises(NoRoute):
        registry.route(livemode=livemode, currency="USD", method=method, provider=provider)


def test_routes_are_tried_in_order_and_by_currency(registry: Registry) -> None:
    """The first route that takes the currency wins."""
    sandbox = registry.adapter("sandbox")
    chosen = Registry({"euro": sandbox, "other": sandbox}, (Route("euro", livemode=True, currencies=frozenset({"EUR"})),))

    assert chosen.route(livemode=True, currency="EUR", method="card") is sandbox
    with pytest.raises(NoRoute):
        chosen.route(livemode=True, currency="USD", method="card")


def test_a_route_to_nobody_is_refused(registry: Registry) -> None:
    """A mistyped provider is found when the registry is made, not when a payment needs it."""
    with pytest.raises(UnknownProvider):
        Registry({}, (Route("nobody", livemode=False),))
    with pytest.raises(UnknownProvider):
        registry.adapter("nobody")


def test_test_mode_takes_exactly_the_sandboxs_cards() -> None:
    """The tokens admitted before a payment is made are those the provider has a card for."""
    assert frozenset(CARDS) == SANDBOX_TOKENS


def test_each_network_code_means_one_thing() -> None:
    """No code stands in two rows, and every row has a message and a source."""
    codes = [code for row in DECLINES.values() for code in row.network_codes]

    assert len(codes) == len(set(codes))
    assert all(row.message and row.source and row.reason == name for name, row in DECLINES.items())


def test_a_decline_is_read_by_reason_then_by_network_code() -> None:
    """What nobody knows is still a decline."""
    assert reason_of("lost_card").retry == "never"
    assert reason_of("something_new", network_code="51").reason == "insufficient_funds"
    assert reason_of("something_new", network_code="ZZ").reason == "unrecognized"


def test_only_passing_trouble_is_retryable() -> None:
    """Retryable means that the same request may be sent again now; what the networks forbid or somebody must mend is not."""
    assert {name for name, row in DECLINES.items() if row.retryable} >= {"processing_error", "issuer_unavailable"}
    assert not any(row.retryable for row in DECLINES.values() if set(row.network_codes) - {"91", "96"})
    assert not DECLINES["lost_card"].retryable
