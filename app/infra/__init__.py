"""What every capability stands on: pools and transactions, group commit, telemetry, the embedded Postgres."""
