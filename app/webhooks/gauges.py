"""What alerts ask of webhooks: whether merchants are told in time."""

from app.infra.telemetry.gauges import Gauge

GAUGES = (
    Gauge(
        ("webhook_lag_seconds",),
        ("How long the delivery that waits longest has been due: our lateness, not that of endpoints that fail and are retried later.",),
        (),
        """
        SELECT coalesce(greatest(0, extract(epoch FROM statement_timestamp() - min(due_at))), 0)
          FROM outbox
         WHERE queue = 'webhooks'""",
    ),
    Gauge(
        ("webhook_deliveries_retrying", "webhook_retries_late_seconds"),
        ("Deliveries that failed and wait for their next attempt.", "How late the oldest of them is: how late the clock is."),
        (),
        """
        SELECT count(*), coalesce(greatest(0, extract(epoch FROM statement_timestamp() - min(next_at))), 0)
          FROM webhook_deliveries
         WHERE status = 'retrying'""",
    ),
    Gauge(
        ("webhook_endpoints_failing",),
        ("Enabled endpoints whose last attempts all failed.",),
        (),
        """
        SELECT count(*)
          FROM webhook_endpoint_health h
         CROSS JOIN LATERAL (SELECT 1 FROM webhook_endpoints w WHERE w.id = h.endpoint_id AND w.status = 'enabled' LIMIT 1) w
         WHERE h.consecutive_failures > 0""",
    ),
)
