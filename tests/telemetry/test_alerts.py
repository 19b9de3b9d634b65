"""The rules for Prometheus speak of figures that exist."""

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # carries no types; this is the only file that reads YAML

from app.infra.telemetry.catalog import FIGURES, Histogram
from app.infra.telemetry.exposition import OWN
from app.main import GAUGES

RULES = Path(__file__).resolve().parents[2] / "ops/alerts/tollgate.yml"


def names() -> set[str]:
    """Everything that `/metrics` may print."""
    counted = {one.name for one in FIGURES if not isinstance(one, Histogram)}
    parts = {f"{one.name}{part}" for one in FIGURES if isinstance(one, Histogram) for part in ("_bucket", "_sum", "_count")}
    return counted | parts | {name for name, _, _ in OWN} | {name for gauge in GAUGES for name in gauge.names}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_every_alert_asks_for_figures_that_exist() -> None:
    """A renamed figure would leave its alert silent for ever."""
    asked = {name for rule in rules() for name in re.findall(r"\b(?:gateway|outbox|payments?|psp|webhook)_\w+", rule["expr"])}

    assert asked <= names()
    assert len(asked) > 10


def test_every_alert_says_how_urgent_it_is_and_where_to_look() -> None:
    """Whoever is woken knows what waits, and begins at the right place."""
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert {"summary", "look"} <= set(rule["annotations"])
