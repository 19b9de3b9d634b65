import itertools

import pytest

from app.core.errors import IllegalTransition
from app.core.machine import NONE, Edge, Machine, SqlRow

DOOR = Machine(
    "door",
    [
        Edge("built", NONE, "closed"),
        Edge("opened", "closed", "open"),
        Edge("pushed", "open", "closed"),
        Edge("pushed", "open", "broken"),
        Edge("painted", "open", "open", announced=False),
    ],
)


def test_a_machine_allows_exactly_what_stands_in_its_table() -> None:
    """Of all events between all statuses only the table's are legal."""
    legal = set()
    for event, source, target in itertools.product(DOOR.events, (NONE, *DOOR.statuses), (NONE, *DOOR.statuses)):
        try:
            legal.add(DOOR.require(event, source, target))
        except IllegalTransition:
            continue

    assert legal == set(DOOR.edges)


def test_an_event_may_lead_to_several_statuses() -> None:
    """Where an event may lead is asked of the table; nowhere is empty, not an error."""
    assert DOOR.targets("pushed", "open") == ("closed", "broken")
    assert DOOR.targets("opened", "broken") == ()


def test_a_refusal_names_object_status_and_event() -> None:
    """The caller learns what was tried on what."""
    with pytest.raises(IllegalTransition, match=r"A door that is broken cannot become open by opened\."):
        DOOR.require("opened", "broken", "open")


def test_statuses_events_and_types_are_read_from_the_table() -> None:
    """Nothing about a machine is written down twice."""
    assert DOOR.statuses == ("closed", "open", "broken")
    assert DOOR.terminal == ("broken",)
    assert DOOR.announced_types() == ("door.built", "door.opened", "door.pushed")
    assert DOOR.sql_rows()[0] == SqlRow("door", "built", "none", "closed", announced=True)
    assert DOOR.sql_rows()[-1] == ("door", "painted", "open", "open", False)


def test_the_diagram_shows_every_edge_and_the_ends() -> None:
    """The picture in the handbook is the table."""
    assert DOOR.to_mermaid().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> closed: built",
        "    closed --> open: opened",
        "    open --> closed: pushed",
        "    open --> broken: pushed",
        "    open --> open: painted",
        "    broken --> [*]",
    ]


@pytest.mark.parametrize(
    "edges",
    [
        [Edge("built", NONE, "closed"), Edge("built", NONE, "closed", announced=False)],
        [Edge("built", NONE, "closed"), Edge("opened", "cloesd", "open")],
        [Edge("built", NONE, "closed"), Edge("razed", "closed", NONE)],
    ],
)
def test_a_table_with_a_slip_is_no_machine(edges: list[Edge]) -> None:
    """A move written twice, a source that nothing leads to, a way back to nothing: refused when the module is loaded."""
    with pytest.raises(ValueError, match="door"):
        Machine("door", edges)
