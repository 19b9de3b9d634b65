"""A state machine is a table of legal moves. Checks, rows in the database, diagrams and event names are read from it."""

from collections.abc import Iterable
from typing import NamedTuple

from app.core.errors import IllegalTransition

# The status of an object that does not exist yet.
NONE = "none"


class Edge(NamedTuple):
    event: str
    source: str
    target: str
    # Whether merchants hear of it: by webhook and in /v1/events, as `<machine>.<event>`.
    announced: bool = True


class SqlRow(NamedTuple):
    """A row of `state_transitions`, in the order of its columns."""

    machine: str
    event: str
    from_status: str
    to_status: str
    announced: bool


class Machine:
    """`name` is the object's name in the API. A self-loop is a change that gets its version and event but keeps the status."""

    def __init__(self, name: str, edges: Iterable[Edge]) -> None:
        self.name = name
        self.edges = tuple(edges)
        self.statuses = tuple(dict.fromkeys(edge.target for edge in self.edges))
        self.terminal = tuple(status for status in self.statuses if all(e.source != status for e in self.edges))
        self.events = tuple(dict.fromkeys(edge.event for edge in self.edges))
        self._moves = {(edge.event, edge.source, edge.target): edge for edge in self.edges}
        self._targets: dict[tuple[str, str], tuple[str, ...]] = {}
        for edge in self.edges:
            key = edge.event, edge.source
            self._targets[key] = (*self._targets.get(key, ()), edge.target)
        self._refuse_typos()

    def require(self, event: str, source: str, target: str) -> Edge:
        """The edge that leads there. Raises IllegalTransition."""
        edge = self._moves.get((event, source, target))
        if edge is None:
            raise IllegalTransition(f"A {self.name.replace('_', ' ')} that is {source} cannot become {target} by {event}.")
        return edge

    def targets(self, event: str, source: str) -> tuple[str, ...]:
        """Where `event` may lead from `source`; empty where it may not happen."""
        return self._targets.get((event, source), ())

    def announced_types(self) -> tuple[str, ...]:
        """The types of the events that merchants may subscribe to, such as `payment.captured`."""
        return tuple(dict.fromkeys(f"{self.name}.{edge.event}" for edge in self.edges if edge.announced))

    def sql_rows(self) -> list[SqlRow]:
        return [SqlRow(self.name, edge.event, edge.source, edge.target, edge.announced) for edge in self.edges]

    def to_mermaid(self) -> str:
        lines = [f"    {_drawn(edge.source)} --> {_drawn(edge.target)}: {edge.event}" for edge in self.edges]
        ends = [f"    {status} --> [*]" for status in self.terminal]
        return "\n".join(["stateDiagram-v2", *lines, *ends]) + "\n"

    def _refuse_typos(self) -> None:
        if len(self._moves) != len(self.edges):
            raise ValueError(f"{self.name}: the same move is in the table twice")
        if NONE in self.statuses:
            raise ValueError(f"{self.name}: nothing moves back to {NONE!r}")
        lost = {edge.source for edge in self.edges} - {NONE, *self.statuses}
        if lost:
            raise ValueError(f"{self.name}: no move leads to {', '.join(sorted(lost))}")


def _drawn(status: str) -> str:
    return "[*]" if status == NONE else status
