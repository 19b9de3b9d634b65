-- Why: what happened is written once, in order, and never rewritten; a status moves only along the table of legal moves and
-- only together with the event that says so. The rows of `state_transitions` are printed by `tollgate states --sql`; a test
-- keeps them equal to the tables in the code.
CREATE TABLE state_transitions (
    machine     text NOT NULL,
    event       text NOT NULL,
    from_status text NOT NULL,
    to_status   text NOT NULL,
    announced   boolean NOT NULL,
    PRIMARY KEY (machine, from_status, event, to_status)
);

-- An installation that was restored starts a new era, so that a reader's cursor of before cannot skip what came after.
CREATE TABLE installation (
    only_one boolean PRIMARY KEY DEFAULT true CONSTRAINT installation_is_one_row CHECK (only_one),
    era      integer NOT NULL DEFAULT 1,
    marker   uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO installation DEFAULT VALUES;

CREATE TABLE events (
    id             uuid NOT NULL,
    merchant_id    uuid NOT NULL,
    livemode       boolean NOT NULL,
    object_type    text NOT NULL,
    object_id      uuid NOT NULL,
    sequence       integer NOT NULL CONSTRAINT event_sequence_starts_at_one CHECK (sequence >= 1),
    event          text NOT NULL,
    from_status    text NOT NULL,
    to_status      text NOT NULL,
    announced      boolean NOT NULL,
    payment_id     uuid,
    operation_id   uuid,
    actor          text NOT NULL,
    detail         json,
    data           json,
    occurred_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    era            integer NOT NULL DEFAULT 1,
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT event_starts_from_none CHECK ((sequence = 1) = (from_status = 'none'))
) PARTITION BY RANGE (id);
CREATE INDEX events_object ON events (object_id, sequence);
CREATE INDEX events_feed ON events (merchant_id, transaction_id, id);
-- The last one: while a partition is empty all indexes look alike, and the planner then takes the youngest, also for look-ups by id.
ALTER TABLE events ADD PRIMARY KEY (id);

-- Partitions are months of the id, whose first 48 bits are milliseconds (UUIDv7).
CREATE FUNCTION tollgate_first_id_at(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$$;

CREATE PROCEDURE tollgate_make_partitions(parent regclass, months_ahead integer) LANGUAGE plpgsql AS $$
DECLARE
    month timestamptz := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    step integer;
    name text;
    lower_month timestamptz;
BEGIN
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %s DEFAULT', parent || '_other', parent);
    FOR step IN 0 .. months_ahead LOOP
        lower_month := month + make_interval(months => step);
        name := format('%s_%s', parent, to_char(lower_month AT TIME ZONE 'UTC', 'YYYY_MM'));
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)', name, parent,
                tollgate_first_id_at(lower_month), tollgate_first_id_at(lower_month + make_interval(months => 1)));
        END IF;
    END LOOP;
END $$;
CALL tollgate_make_partitions('events', 2);

CREATE FUNCTION refuse_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME
        USING ERRCODE = 'TG004', CONSTRAINT = TG_ARGV[0], HINT = 'Corrections are new rows.';
END $$;
CREATE TRIGGER events_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewrite('events_are_append_only');
CREATE TRIGGER transitions_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON state_transitions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewrite('transitions_are_append_only');

-- Here and in every function that runs as whoever calls it, tables are named with their schema: a temporary table of the caller's
-- would otherwise stand before ours. `fresh` and `stale` are the rows of the statement and cannot be hidden.
--
-- Attached to every table with a status: each new row starts at version 1 with its event, each change is the next version
-- with its event, whose `from` is the status the row had. TG_ARGV[0] is the machine. The row names the event that put it
-- where it is (`last_event_id`), so the look-up is one probe of one partition.
CREATE FUNCTION require_birth_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM fresh f
         WHERE f.version <> 1
            OR (SELECT 1 FROM public.events e
                 WHERE e.id = f.last_event_id AND e.object_id = f.id AND e.sequence = 1 AND e.object_type = TG_ARGV[0]
                   AND e.merchant_id = f.merchant_id AND e.livemode = f.livemode
                   AND e.from_status = 'none' AND e.to_status = f.status
                 LIMIT 1) IS NULL) THEN
        RAISE EXCEPTION 'a % began without its event', TG_ARGV[0]
            USING ERRCODE = 'TG002', CONSTRAINT = TG_ARGV[0] || '_begins_with_its_event';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION require_move_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM fresh f
         WHERE (SELECT 1
                  FROM stale s
                  JOIN public.events e ON e.id = f.last_event_id AND e.object_id = f.id AND e.sequence = f.version
                               AND e.object_type = TG_ARGV[0] AND e.merchant_id = s.merchant_id AND e.livemode = s.livemode
                               AND e.from_status = s.status AND e.to_status = f.status
                 WHERE s.id = f.id AND f.version = s.version + 1 AND f.merchant_id = s.merchant_id AND f.livemode = s.livemode
                 LIMIT 1) IS NULL) THEN
        RAISE EXCEPTION 'a % moved without its event', TG_ARGV[0]
            USING ERRCODE = 'TG002', CONSTRAINT = TG_ARGV[0] || '_moves_with_its_event';
    END IF;
    RETURN NULL;
END $$;

-- For tables whose moves are told by another object's events (operations by their payment's): the edge must be legal.
CREATE FUNCTION require_legal_edge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM fresh f
         WHERE (SELECT 1
                  FROM stale s
                 WHERE s.id = f.id AND s.merchant_id = f.merchant_id
                   AND (s.status = f.status OR (SELECT 1 FROM public.state_transitions t
                                                 WHERE t.machine = TG_ARGV[0] AND t.from_status = s.status AND t.to_status = f.status
                                                 LIMIT 1) IS NOT NULL)
                 LIMIT 1) IS NULL) THEN
        RAISE EXCEPTION 'an % cannot move like this', TG_ARGV[0]
            USING ERRCODE = 'TG001', CONSTRAINT = TG_ARGV[0] || '_moves_legally';
    END IF;
    RETURN NULL;
END $$;

-- Payments and their like are never deleted: what happened to money stays.
CREATE FUNCTION refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are kept', TG_TABLE_NAME USING ERRCODE = 'TG004', CONSTRAINT = TG_ARGV[0];
END $$;

CALL tollgate_protect('events');
-- When it was recorded, in which transaction and in which era is for the database to say: readers of the feed go by it.
DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['tollgate_app', 'tollgate_writer', 'tollgate_ops'] LOOP
        CALL tollgate_grant(one, 'SELECT, INSERT (id, merchant_id, livemode, object_type, object_id, sequence, event, from_status, '
            'to_status, announced, payment_id, operation_id, actor, detail, data, occurred_at)', 'events');
    END LOOP;
END $$;
CALL tollgate_grant('tollgate_app', 'SELECT', 'state_transitions, installation');
CALL tollgate_grant('tollgate_writer', 'SELECT', 'state_transitions, installation');
CALL tollgate_grant('tollgate_ops', 'SELECT', 'state_transitions, installation');
