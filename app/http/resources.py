"""What lives as long as a web process: pools, keys, and what capabilities put beside them."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from app.identity.keyring import KeyRing
from app.infra.db import Pool
from app.settings import Settings

if TYPE_CHECKING:
    from app.http.call import Call

T = TypeVar("T")

# The call, its route's label, the status answered, seconds taken.
OnAnswer = Callable[["Call[Any]", str, int, float], None]


class Resources:
    """What the process holds while it serves. Things of capabilities are kept by their class: `add(lane)`, `of(Lane)`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pool: Pool  # tollgate_app: one merchant and mode per transaction, see `app.infra.db.tenant`
        self.writer_pool: Pool  # tollgate_writer: the reviewed statements over many merchants
        self.ops_pool: Pool  # tollgate_ops: operators' reads and acts
        self.keys: KeyRing
        # Called once when the process was told to end, before it waits for open requests: waiting ones have to be answered now.
        self.on_drain: list[Callable[[], Awaitable[None]]] = []
        # Called after each answer; must be cheap and may not raise.
        self.on_answer: list[OnAnswer] = []
        self.draining = False
        self._things: dict[type[Any], Any] = {}

    def add(self, thing: object) -> None:
        self._things[type(thing)] = thing

    def of(self, kind: type[T]) -> T:
        thing: T = self._things[kind]
        return thing

    def find(self, kind: type[T]) -> T | None:
        return self._things.get(kind)
