-- Why: what is true and what must be done about it are written by the same transaction. `outbox` holds what is to be done now,
-- `dead_letters` what nobody could do, `inbox` what the outside told us, once each. The file needs nothing of the others: it
-- can be applied alone, and the grants are made where the roles exist.
CREATE TABLE outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- COLLATE "C": names are compared byte by byte, also where the claim walks from lane to lane.
    queue       text COLLATE "C" NOT NULL CONSTRAINT outbox_queue_is_named CHECK (length(queue) BETWEEN 1 AND 50),
    lane        text COLLATE "C" NOT NULL CONSTRAINT outbox_lane_is_named CHECK (length(lane) BETWEEN 1 AND 200),
    actor       text NOT NULL CONSTRAINT outbox_actor_is_named CHECK (length(actor) BETWEEN 1 AND 100),
    subject     uuid,
    tenant      uuid,
    payload     text NOT NULL,
    traceparent text,
    due_at      timestamptz NOT NULL DEFAULT statement_timestamp(),
    -- The fencing token: grows with every claim and never shrinks.
    attempt     integer NOT NULL DEFAULT 0,
    -- Errors that a handler reported; they alone drive backoff and giving up.
    failures    integer NOT NULL DEFAULT 0,
    -- Claims that came back without an effect (postponed, or handed back by a worker that ends); they count for nothing.
    returned    integer NOT NULL DEFAULT 0,
    first_error text,
    last_error  text,
    created_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    replay_of   bigint,
    CONSTRAINT outbox_counts_are_never_negative CHECK (attempt >= 0 AND failures >= 0 AND returned >= 0),
    CONSTRAINT outbox_every_end_had_a_claim CHECK (failures + returned <= attempt),
    CONSTRAINT outbox_failure_has_its_errors CHECK ((failures > 0) = (first_error IS NOT NULL) AND (failures > 0) = (last_error IS NOT NULL))
) WITH (
    -- A claim rewrites the row: with room on the page the new version stays beside the old one.
    fillfactor = 70,
    -- The table is short and every row in it dies soon: a share of its size says nothing, a number of dead rows does.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
-- The claim: the oldest due rows of a queue. The second serves it while a lane is full, so that a million waiting rows of one
-- slow lane are stepped over and not read.
CREATE INDEX outbox_due ON outbox (queue, due_at);
CREATE INDEX outbox_due_in_lane ON outbox (queue, lane, due_at);

CREATE TABLE dead_letters (
    -- A UUIDv7, built here because PostgreSQL 15 has no function for it: 48 bits of milliseconds, version, random.
    id           uuid PRIMARY KEY DEFAULT encode(set_bit(set_bit(overlay(
                     uuid_send(gen_random_uuid())
                     PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6
                 ), 52, 1), 53, 1), 'hex')::uuid,
    outbox_id    bigint NOT NULL CONSTRAINT dead_letter_is_written_once_per_row UNIQUE,
    queue        text COLLATE "C" NOT NULL,
    lane         text COLLATE "C" NOT NULL,
    actor        text NOT NULL,
    subject      uuid,
    tenant       uuid,
    payload      text NOT NULL,
    traceparent  text,
    attempts     integer NOT NULL,
    failures     integer NOT NULL,
    first_error  text NOT NULL,
    last_error   text NOT NULL,
    created_at   timestamptz NOT NULL,
    dead_at      timestamptz NOT NULL DEFAULT statement_timestamp(),
    replay_of    bigint,
    replayed_at  timestamptz,
    replayed_as  bigint,
    discarded_at timestamptz,
    reason       text,
    acted_by     text,
    CONSTRAINT dead_letter_is_replayed_or_discarded_never_both CHECK (replayed_at IS NULL OR discarded_at IS NULL),
    CONSTRAINT dead_letter_replayed_names_its_new_row CHECK ((replayed_at IS NULL) = (replayed_as IS NULL)),
    CONSTRAINT dead_letter_closed_says_who_and_why CHECK (
        (replayed_at IS NULL AND discarded_at IS NULL) = (acted_by IS NULL)
        AND (acted_by IS NULL) = (reason IS NULL)
        AND acted_by <> '' AND reason <> ''
    )
);
CREATE INDEX dead_letters_open ON dead_letters (id) WHERE replayed_at IS NULL AND discarded_at IS NULL;

CREATE TABLE inbox (
    provider          text COLLATE "C" NOT NULL,
    provider_event_id text COLLATE "C" NOT NULL CONSTRAINT inbox_event_id_is_1_to_255_long CHECK (length(provider_event_id) BETWEEN 1 AND 255),
    -- The raw bytes, as they were signed.
    body              bytea NOT NULL,
    received_at       timestamptz NOT NULL DEFAULT statement_timestamp(),
    applied_at        timestamptz,
    CONSTRAINT inbox_event_is_received_once PRIMARY KEY (provider, provider_event_id),
    CONSTRAINT inbox_event_is_applied_after_it_came CHECK (applied_at >= received_at)
);
CREATE INDEX inbox_applied ON inbox (applied_at) WHERE applied_at IS NOT NULL;

-- The application may only add rows, and only the columns that describe them: counts and errors belong to the workers.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN SELECT * FROM (VALUES
        ('tollgate_app',    'INSERT (queue, lane, actor, subject, tenant, payload, traceparent, due_at)', 'outbox'),
        ('tollgate_writer', 'SELECT, INSERT, UPDATE, DELETE', 'outbox'),
        ('tollgate_writer', 'SELECT, INSERT', 'dead_letters'),
        ('tollgate_writer', 'SELECT, INSERT, UPDATE, DELETE', 'inbox'),
        ('tollgate_ops',    'SELECT, INSERT', 'outbox'),
        ('tollgate_ops',    'SELECT, UPDATE (replayed_at, replayed_as, discarded_at, reason, acted_by)', 'dead_letters'),
        ('tollgate_ops',    'SELECT', 'inbox')
    ) AS wanted (role_name, privileges, relation) LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = given.role_name) THEN
            EXECUTE format('GRANT %s ON %I TO %I', given.privileges, given.relation, given.role_name);
        END IF;
    END LOOP;
END $$;

-- The application leaves work for the merchant it works for and for no other. The owner is exempt, so that this file does not
-- depend on the roles.
DO $$
DECLARE
    reviewed text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tollgate_app') THEN
        RETURN;
    END IF;
    ALTER TABLE outbox ENABLE ROW LEVEL SECURITY;
    CREATE POLICY outbox_tenant ON outbox FOR INSERT TO tollgate_app
        WITH CHECK (tenant = (SELECT current_setting('tollgate.merchant_id')::uuid));
    FOREACH reviewed IN ARRAY ARRAY['tollgate_writer', 'tollgate_ops'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = reviewed) THEN
            EXECUTE format('CREATE POLICY %I ON outbox TO %I USING (true) WITH CHECK (true)', 'outbox_' || reviewed, reviewed);
        END IF;
    END LOOP;
END $$;
