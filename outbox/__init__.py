"""The transactional outbox, usable on its own: what must be done is written by the transaction that makes it necessary.

`README.md` beside this file shows it from the first row to a worker. Nothing else of this repository is imported here.
"""

from outbox import dead_letters, inbox
from outbox.model import Actor, Claimed, Failed, LeaseLost, NewRow, Postpone, backoff_seconds, error_text
from outbox.store import claim, defer, defer_lane, depth, fail, hold, read_ids, send_hold, send_settle, settle, write

__all__ = [
    "Actor",
    "Claimed",
    "Failed",
    "LeaseLost",
    "NewRow",
    "Postpone",
    "backoff_seconds",
    "claim",
    "dead_letters",
    "defer",
    "defer_lane",
    "depth",
    "error_text",
    "fail",
    "hold",
    "inbox",
    "read_ids",
    "send_hold",
    "send_settle",
    "settle",
    "write",
]
