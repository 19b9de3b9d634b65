"""Which adapter takes a payment: adapters by name, and routes tried in order."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from app.providers.base import Adapter


class NoRoute(LookupError):
    """No provider takes this currency and payment method in this mode."""

    def __init__(self, *, livemode: bool, currency: str, method: str) -> None:
        super().__init__(f"no provider takes {method} in {currency} in {'live' if livemode else 'test'} mode")
        self.livemode = livemode
        self.currency = currency
        self.method = method


class UnknownProvider(LookupError):
    """No provider of that name is configured."""


@dataclass(frozen=True, slots=True)
class Route:
    """`currencies` None: all of them. Methods are those of the adapter's capabilities."""

    provider: str
    livemode: bool
    currencies: frozenset[str] | None = None


class Registry:
    """`test_tokens` are the only card tokens that test mode takes: a real card has no business there."""

    def __init__(self, adapters: Mapping[str, Adapter], routes: tuple[Route, ...], *, test_tokens: frozenset[str] = frozenset()) -> None:
        self.test_tokens = test_tokens
        self.adapters = MappingProxyType(dict(adapters))
        self.routes = routes
        for route in routes:
            self.adapter(route.provider)

    def adapter(self, name: str) -> Adapter:
        """Raises UnknownProvider."""
        found = self.adapters.get(name)
        if found is None:
            raise UnknownProvider(name)
        return found

    def route(self, *, livemode: bool, currency: str, method: str, provider: str = "") -> Adapter:
        """The first adapter whose route fits, only `provider` if one is named. Raises NoRoute."""
        for route in self.routes:
            if route.livemode is not livemode or (provider and route.provider != provider):
                continue
            if route.currencies is not None and currency not in route.currencies:
                continue
            adapter = self.adapters[route.provider]
            if method in adapter.capabilities.methods:
                return adapter
        raise NoRoute(livemode=livemode, currency=currency, method=method)

    async def close(self) -> None:
        for adapter in self.adapters.values():
            await adapter.close()
