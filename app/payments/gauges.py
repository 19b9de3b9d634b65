"""What alerts ask of payments: what is open at a provider, for how long, and what somebody has to look at."""

from app.infra.telemetry.gauges import Gauge

# The first two read only rows of the partial index `one_open_operation_per_payment`, which are as many as payments are under way.
GAUGES = (
    Gauge(
        ("payments_inflight_total", "payments_inflight_oldest_seconds"),
        (
            (
                "Payments with an open operation, refunds aside: `requested` has no answer yet, `unknown` may have happened, `pending` was "
                "taken on by the provider, which answers later, often because the payer is at its challenge page."
            ),
            "How long the oldest of them has been open.",
        ),
        ("status",),
        """
        SELECT CASE WHEN status = 'requested' AND provider_ref IS NOT NULL THEN 'pending' ELSE status END,
               count(*),
               extract(epoch FROM statement_timestamp() - min(requested_at))
          FROM operations
         WHERE status IN ('requested', 'unknown') AND type <> 'refund'
         GROUP BY 1""",
        zeros=(("requested",), ("unknown",), ("pending",)),
    ),
    Gauge(
        ("payments_lookups_late_seconds",),
        ("How late the oldest look-up of an open operation is: how late the clock is.",),
        (),
        """
        SELECT coalesce(greatest(0, extract(epoch FROM statement_timestamp() - min(next_lookup_at))), 0)
          FROM operations
         WHERE next_lookup_at IS NOT NULL""",
    ),
    Gauge(
        ("payment_exceptions_open", "payment_exception_oldest_seconds"),
        ("What providers say happened and no rule admits: money in suspense that an operator has to decide on.", "Age of the oldest."),
        (),
        """
        SELECT count(*), coalesce(extract(epoch FROM statement_timestamp() - min(opened_at)), 0)
          FROM exceptions
         WHERE status = 'open'""",
    ),
)
