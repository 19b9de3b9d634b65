-- Why: merchants are told what happened, at the URLs they name, until they answer. An endpoint is an object with a status and
-- events like a payment's; what is counted per attempt stands in a table of its own, so that counting is not a change of the
-- object. A delivery is one event for one endpoint, whatever the number of attempts: its id is computed from both, so a second
-- row for the pair cannot exist. No secret is stored, only the salts that secrets are derived with (docs/decisions/0003).
INSERT INTO state_transitions (machine, event, from_status, to_status, announced) VALUES
    ('webhook_endpoint', 'created', 'none', 'enabled', false),
    ('webhook_endpoint', 'updated', 'enabled', 'enabled', false),
    ('webhook_endpoint', 'updated', 'disabled', 'disabled', false),
    ('webhook_endpoint', 'secret_rotated', 'enabled', 'enabled', false),
    ('webhook_endpoint', 'secret_rotated', 'disabled', 'disabled', false),
    ('webhook_endpoint', 'tested', 'enabled', 'enabled', false),
    ('webhook_endpoint', 'exhausted', 'enabled', 'enabled', true),
    ('webhook_endpoint', 'exhausted', 'disabled', 'disabled', true),
    ('webhook_endpoint', 'disabled', 'enabled', 'disabled', true),
    ('webhook_endpoint', 'enabled', 'disabled', 'enabled', false),
    ('webhook_endpoint', 'deleted', 'enabled', 'deleted', false),
    ('webhook_endpoint', 'deleted', 'disabled', 'deleted', false);

CREATE TABLE webhook_endpoints (
    id                       uuid PRIMARY KEY,
    merchant_id              uuid NOT NULL,
    livemode                 boolean NOT NULL,
    status                   text NOT NULL,
    version                  integer NOT NULL,
    last_event_id            uuid NOT NULL,
    url                      text NOT NULL CONSTRAINT webhook_url_is_1_to_2048_long CHECK (length(url) BETWEEN 1 AND 2048),
    enabled_events           text[] NOT NULL
                                 CONSTRAINT webhook_endpoint_wants_1_to_100_types CHECK (cardinality(enabled_events) BETWEEN 1 AND 100),
    description              text CONSTRAINT webhook_description_is_within_1000 CHECK (length(description) <= 1000),
    salt                     text NOT NULL CONSTRAINT webhook_salt_is_128_bits CHECK (salt ~ '^[0-9a-f]{32}$'),
    previous_salt            text,
    previous_salt_expires_at timestamptz,
    disabled_at              timestamptz,
    disabled_reason          text CONSTRAINT webhook_disabled_reason_is_known CHECK (disabled_reason IN ('merchant', 'gone', 'failing')),
    metadata                 jsonb NOT NULL DEFAULT '{}',
    created_at               timestamptz NOT NULL,
    updated_at               timestamptz NOT NULL,
    CONSTRAINT disabled_webhook_endpoint_says_when_and_why
        CHECK ((status = 'disabled') = (disabled_at IS NOT NULL) AND (disabled_at IS NULL) = (disabled_reason IS NULL)),
    CONSTRAINT previous_webhook_secret_ends CHECK ((previous_salt IS NULL) = (previous_salt_expires_at IS NULL))
);
CREATE INDEX webhook_endpoints_merchant ON webhook_endpoints (merchant_id, livemode, id);
-- The fan-out of every event asks here.
CREATE INDEX webhook_endpoints_listening ON webhook_endpoints (merchant_id, livemode) WHERE status = 'enabled';

CREATE TRIGGER webhook_endpoint_begins_with_its_event AFTER INSERT ON webhook_endpoints REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_birth_event('webhook_endpoint');
CREATE TRIGGER webhook_endpoint_moves_with_its_event AFTER UPDATE ON webhook_endpoints REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_move_event('webhook_endpoint');
CREATE TRIGGER webhook_endpoints_are_kept BEFORE DELETE OR TRUNCATE ON webhook_endpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal('webhook_endpoints_are_kept');

-- What attempts have shown. A success is written at most once a minute while all goes well.
CREATE TABLE webhook_endpoint_health (
    endpoint_id          uuid PRIMARY KEY,
    merchant_id          uuid NOT NULL,
    livemode             boolean NOT NULL,
    last_success_at      timestamptz,
    failing_since        timestamptz,
    consecutive_failures integer NOT NULL DEFAULT 0 CONSTRAINT webhook_failures_are_not_negative CHECK (consecutive_failures >= 0),
    paused_until         timestamptz,
    CONSTRAINT failing_webhook_endpoint_says_since_when CHECK ((consecutive_failures > 0) = (failing_since IS NOT NULL))
) WITH (fillfactor = 70);

CREATE TABLE webhook_deliveries (
    id               uuid NOT NULL,
    merchant_id      uuid NOT NULL,
    livemode         boolean NOT NULL,
    event_id         uuid NOT NULL,
    endpoint_id      uuid NOT NULL,
    status           text NOT NULL CONSTRAINT delivery_status_is_known
                         CHECK (status IN ('pending', 'delivered', 'retrying', 'exhausted', 'canceled')),
    attempts         integer NOT NULL CONSTRAINT delivery_attempts_are_not_negative CHECK (attempts >= 0),
    -- How far along the schedule of retries this round is; `attempts` counts every request ever made.
    tries            smallint NOT NULL,
    last_status_code smallint,
    last_error       text,
    latency_ms       integer,
    next_at          timestamptz,
    log              jsonb NOT NULL DEFAULT '[]',
    traceparent      text,
    created_at       timestamptz NOT NULL,
    delivered_at     timestamptz,
    CONSTRAINT retrying_delivery_has_its_instant CHECK ((status = 'retrying') = (next_at IS NOT NULL)),
    CONSTRAINT delivered_delivery_has_its_instant CHECK ((status = 'delivered') = (delivered_at IS NOT NULL))
) PARTITION BY RANGE (id);
CREATE INDEX webhook_deliveries_endpoint ON webhook_deliveries (endpoint_id, id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_at) WHERE status = 'retrying';
-- Last: for a partition that was analyzed while empty all indexes cost the same, and the planner then takes the youngest. Were
-- that another one, a plan made before the month begins would read it whole for every id (seen on PostgreSQL 18).
ALTER TABLE webhook_deliveries ADD CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (id);
CALL tollgate_make_partitions('webhook_deliveries', 2);

-- A UUIDv7 of the event's instant whose other digits are a hash of the pair: sorted by time, and the same however often it is asked.
CREATE FUNCTION webhook_delivery_id(event_id uuid, endpoint_id uuid) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT overlay(overlay(overlay(
               left(encode(sha256(uuid_send(event_id) || uuid_send(endpoint_id)), 'hex'), 32)
               PLACING left(encode(uuid_send(event_id), 'hex'), 12) FROM 1)
               PLACING '7' FROM 13)
               PLACING '8' FROM 17)::uuid
$$;

CALL tollgate_protect('webhook_endpoints');
CALL tollgate_protect('webhook_endpoint_health');
CALL tollgate_protect('webhook_deliveries');
DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['tollgate_app', 'tollgate_writer', 'tollgate_ops'] LOOP
        CALL tollgate_grant(one, 'SELECT, INSERT, UPDATE', 'webhook_endpoints, webhook_endpoint_health, webhook_deliveries');
    END LOOP;
END $$;
