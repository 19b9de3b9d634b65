"""Routes as declarations: one tuple of them per capability, from which come the Litestar handlers and the OpenAPI document."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from litestar import Litestar, asgi
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from app.core.errors import DomainError, NotFound
from app.core.ids import MalformedId, parse_typeid
from app.http.answers import Answer
from app.http.bodies import MAX_BODY_BYTES, Body, strict_decoder
from app.http.call import Call
from app.http.exchange import Exchange
from app.http.lists import Filter, Query
from app.http.resources import Resources

# secret: a merchant's secret key. publishable: that or the key for browsers. operator: an operator's. nobody: no key is asked for.
Access = Literal["secret", "publishable", "operator", "nobody"]

_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")


class Route:
    """One method of one path. `{payment_id:pay}` in the path is a TypeID, `{name}` any text."""

    __slots__ = (
        "access",
        "act",
        "answers",
        "body",
        "conditional",
        "decode",
        "errors",
        "filters",
        "for_payers",
        "label",
        "max_body_bytes",
        "method",
        "name",
        "parameters",
        "path",
        "query",
        "summary",
        "template",
        "waits",
        "writes",
    )

    def __init__(
        self,
        method: Literal["GET", "POST", "PATCH", "DELETE"],
        path: str,
        act: Callable[[Call[Any]], Awaitable[Answer]],
        *,
        body: type[Body] | None = None,
        answers: Mapping[int, Any],
        errors: Sequence[type[DomainError]] = (),
        query: Query | None = None,
        access: Access = "secret",
        waits: bool = False,
        conditional: bool = False,
        for_payers: bool = False,
        max_body_bytes: int = MAX_BODY_BYTES,
        summary: str = "",
    ) -> None:
        """`answers`: status → struct, a media type, or None for no body. `waits`: takes `Prefer`. `conditional`: takes `If-Match`.

        `for_payers`: of access nobody, and opened by a client secret.
        """
        self.method = method
        self.path = path
        self.act = act
        self.name = getattr(act, "__name__", path)
        self.answers = answers
        self.errors = tuple(errors)
        self.query = query
        self.access = access
        self.waits = waits
        self.conditional = conditional
        self.for_payers = for_payers
        self.max_body_bytes = max_body_bytes
        self.summary = summary or (act.__doc__ or act.__name__.replace("_", " ")).strip().split("\n")[0]
        self.parameters: dict[str, str | None] = {name: prefix or None for name, prefix in _PARAMETER.findall(path)}
        self.template = _PARAMETER.sub(r"{\1}", path)
        self.label = f"{method} {self.template}"
        self.writes = method != "GET"
        # A write without members of its own still takes an idempotency key; callbacks of others bring a body in a form of theirs.
        self.body = body or (Body if self.writes and access != "nobody" else None)
        self.decode = strict_decoder(self.body) if self.body is not None else None
        self.filters: dict[str, Filter] = {one.name: one for one in query.filters} if query is not None else {}

    def read_ids(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Raises NotFound for an id that cannot be one: there is certainly no such object."""
        ids = {}
        for name, prefix in self.parameters.items():
            value = given[name]
            if prefix is not None:
                try:
                    value = parse_typeid(prefix, value)
                except MalformedId as error:
                    raise NotFound(f"`{name}`: {error}.") from None
            elif "\x00" in value or len(value) > 255:
                raise NotFound
            ids[name] = value
        return ids


def mount(routes: Sequence[Route], resources: Resources) -> list[ASGIRouteHandler]:
    """One raw handler per path; what a path takes is decided here and not by Litestar, so that 405 is our problem document."""
    by_path: dict[str, dict[str, Route]] = {}
    for route in routes:
        methods = by_path.setdefault(_PARAMETER.sub(r"{\1:str}", route.path), {})
        if route.method in methods:
            raise ValueError(f"{route.label} is declared twice")
        methods[route.method] = route
    return [_at_path(path, Exchange(methods, resources)) for path, methods in by_path.items()]


def mend_path_parameters(app: Litestar) -> None:
    """Litestar 2.25 files the path parameters of a raw route under "asgi" and looks them up under the request's method."""
    waiting = [app.asgi_router.root_route_map_node]
    while waiting:
        node = waiting.pop()
        waiting += node.children.values()
        if node.is_asgi:
            node.path_parameters = _ForEveryMethod(node.path_parameters)


class _ForEveryMethod(dict[Any, Any]):
    def __missing__(self, _method: str) -> Any:
        return self["asgi"]


def _at_path(path: str, exchange: Exchange) -> ASGIRouteHandler:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            await exchange.serve(scope, receive, send)

    return asgi(path, copy_scope=False, name=path)(serve)
