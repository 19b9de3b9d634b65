-- Why: web processes share one port and workers have none, so nobody can ask each of them for its counts. Every few seconds a
-- process adds to `figures` what it has counted since; whoever answers /metrics shows the same sums, which outlive processes and
-- only ever grow. `processes` is who is alive (docs/decisions, "Figures are summed in Postgres").
CREATE TABLE figures (
    name    text COLLATE "C" NOT NULL CONSTRAINT figure_is_named CHECK (length(name) BETWEEN 1 AND 100),
    labels  text[] COLLATE "C" NOT NULL,
    count   bigint NOT NULL CONSTRAINT figure_count_is_not_negative CHECK (count >= 0),
    sum     double precision,
    -- One per bound and one for what is above all of them; each counts its own observations only.
    buckets bigint[],
    PRIMARY KEY (name, labels),
    CONSTRAINT figure_with_a_sum_has_buckets CHECK ((sum IS NULL) = (buckets IS NULL))
) WITH (fillfactor = 50);

CREATE TABLE processes (
    id         uuid PRIMARY KEY,
    kind       text NOT NULL CONSTRAINT process_kind_is_named CHECK (length(kind) BETWEEN 1 AND 50),
    started_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT statement_timestamp()
) WITH (fillfactor = 50);

CALL tollgate_grant('tollgate_writer', 'SELECT, INSERT, UPDATE', 'figures');
CALL tollgate_grant('tollgate_writer', 'SELECT, INSERT, UPDATE, DELETE', 'processes');
CALL tollgate_grant('tollgate_ops', 'SELECT', 'figures');
CALL tollgate_grant('tollgate_ops', 'SELECT', 'processes');
