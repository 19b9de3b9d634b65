"""The transactional outbox, usable on its own: what must be done is written by the transaction that makes it necessary.

`README.md` beside this file shows it from the first row to a worker. Nothing else of this repository is imported here.
"""

from outbox import dead_letters, inbox
from outbox.broker import OutboxBroker
from outbox.engine import Times
from outbox.intake import Queue
from outbox.model import Actor, Bury, Claimed, Failed, LeaseLost, NewRow, Postpone, backoff_seconds, error_text
from outbox.store import (
    HELD,
    SETTLED,
    WRITE,
    claim,
    defer,
    defer_lane,
    depth,
    encoded,
    fail,
    hold,
    read_ids,
    send_hold,
    send_settle,
    settle,
    tokens,
    write,
)
from outbox.wake import Listener, Waker, channel_of
from outbox.worker import run_worker

__all__ = [
    "HELD",
    "SETTLED",
    "WRITE",
    "Actor",
    "Bury",
    "Claimed",
    "Failed",
    "LeaseLost",
    "Listener",
    "NewRow",
    "OutboxBroker",
    "Postpone",
    "Queue",
    "Times",
    "Waker",
    "backoff_seconds",
    "channel_of",
    "claim",
    "dead_letters",
    "defer",
    "defer_lane",
    "depth",
    "encoded",
    "error_text",
    "fail",
    "hold",
    "inbox",
    "read_ids",
    "run_worker",
    "send_hold",
    "send_settle",
    "settle",
    "tokens",
    "write",
]
