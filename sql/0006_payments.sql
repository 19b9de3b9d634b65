-- Why: the objects that a payment is made of. `status` says where, `failure` and `…_reason` say why, and what has been asked
-- of a PSP and not yet answered is an operation, not a status. Each CHECK is a sentence that holds whatever the code does.
CREATE TABLE customers (
    id          uuid PRIMARY KEY,
    merchant_id uuid NOT NULL REFERENCES merchants (id),
    livemode    boolean NOT NULL,
    reference   text,
    name        text,
    email       text,
    metadata    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL
);
CREATE INDEX customers_merchant ON customers (merchant_id, livemode, id);

CREATE TABLE payment_intents (
    id                  uuid NOT NULL,
    merchant_id         uuid NOT NULL,
    livemode            boolean NOT NULL,
    customer_id         uuid,
    reference           text,
    amount              bigint NOT NULL CONSTRAINT intent_amount_is_1_to_999_999_999_999 CHECK (amount BETWEEN 1 AND 999999999999),
    currency            text NOT NULL CONSTRAINT intent_currency_is_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
    capture_method      text NOT NULL CONSTRAINT intent_capture_is_automatic_or_manual CHECK (capture_method IN ('automatic', 'manual')),
    status              text NOT NULL,
    version             integer NOT NULL,
    last_event_id       uuid NOT NULL,
    payment_method      json,
    success_url         text,
    cancel_url          text,
    return_url          text,
    description         text,
    metadata            jsonb NOT NULL DEFAULT '{}',
    provider            text,
    setup_future_usage  text,
    attempt_count       smallint NOT NULL DEFAULT 0,
    max_attempts        smallint NOT NULL DEFAULT 5,
    latest_payment_id   uuid,
    authorization_id    uuid,
    next_action         json,
    last_payment_error  json,
    cancel_requested    text,
    cancellation_reason text,
    expires_at          timestamptz NOT NULL,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    CONSTRAINT intent_attempts_are_limited CHECK (attempt_count BETWEEN 0 AND max_attempts),
    CONSTRAINT intent_next_action_goes_with_requires_action CHECK ((status = 'requires_action') = (next_action IS NOT NULL)),
    CONSTRAINT intent_canceled_has_a_reason CHECK ((status = 'canceled') = (cancellation_reason IS NOT NULL))
) WITH (fillfactor = 60);
CREATE INDEX payment_intents_merchant ON payment_intents (merchant_id, livemode, id);
-- No predicate on `status`: it would make every change of status write to every index of the row (no heap-only update).
-- The clock walks this index from its mark instead.
CREATE INDEX payment_intents_expiry ON payment_intents (expires_at);
-- Here and below the last index: while a table is empty all of them look alike, and the planner then walks the youngest.
ALTER TABLE payment_intents ADD PRIMARY KEY (id);

CREATE TABLE payments (
    id                       uuid NOT NULL,
    payment_intent_id        uuid NOT NULL,
    merchant_id              uuid NOT NULL,
    livemode                 boolean NOT NULL,
    customer_id              uuid,
    reference                text,
    idempotency_key          text,
    amount                   bigint NOT NULL CONSTRAINT payment_amount_is_1_to_999_999_999_999 CHECK (amount BETWEEN 1 AND 999999999999),
    amount_captured          bigint NOT NULL DEFAULT 0,
    amount_refunded          bigint NOT NULL DEFAULT 0,
    refund_reserved          bigint NOT NULL DEFAULT 0,
    amount_disputed          bigint NOT NULL DEFAULT 0,
    currency                 text NOT NULL CONSTRAINT payment_currency_is_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
    capture_method           text NOT NULL CONSTRAINT payment_capture_is_automatic_or_manual CHECK (capture_method IN ('automatic', 'manual')),
    status                   text NOT NULL,
    version                  integer NOT NULL,
    last_event_id            uuid NOT NULL,
    provider                 text NOT NULL,
    provider_ref             text,
    provider_status          text,
    authorization_id         uuid,
    authorization_code       text,
    payment_method           json NOT NULL,
    fee                      bigint NOT NULL DEFAULT 0 CONSTRAINT payment_fee_is_not_negative CHECK (fee >= 0),
    failure                  json,
    pending_operation        json,
    latest_operation         json,
    metadata                 jsonb NOT NULL DEFAULT '{}',
    created_at               timestamptz NOT NULL,
    updated_at               timestamptz NOT NULL,
    authorized_at            timestamptz,
    captured_at              timestamptz,
    authorization_expires_at timestamptz,
    CONSTRAINT captured_is_within_authorized CHECK (amount_captured BETWEEN 0 AND amount),
    CONSTRAINT refund_total_is_within_captured
        CHECK (amount_refunded >= 0 AND refund_reserved >= 0 AND amount_refunded + refund_reserved <= amount_captured),
    CONSTRAINT disputed_is_within_captured CHECK (amount_disputed BETWEEN 0 AND amount_captured),
    CONSTRAINT captured_payment_has_amount_and_instant CHECK ((amount_captured > 0) = (captured_at IS NOT NULL)),
    CONSTRAINT payment_without_capture_has_no_captured_status
        CHECK ((status IN ('captured', 'partially_refunded', 'refunded', 'disputed', 'won', 'lost')) = (amount_captured > 0)),
    CONSTRAINT authorized_payment_has_its_instant CHECK (status <> 'authorized' OR authorized_at IS NOT NULL),
    CONSTRAINT standing_authorization_has_its_end CHECK ((status = 'authorized') = (authorization_expires_at IS NOT NULL)),
    CONSTRAINT failed_payment_says_why CHECK (status <> 'failed' OR failure IS NOT NULL),
    CONSTRAINT refunded_payment_is_refunded_whole CHECK (status <> 'refunded' OR amount_refunded = amount_captured)
) WITH (fillfactor = 60);
CREATE INDEX payments_merchant ON payments (merchant_id, livemode, id);
CREATE INDEX payments_intent ON payments (payment_intent_id);
-- Set while the authorization stands and null otherwise, so a sale never touches this index.
CREATE INDEX payments_authorization_expiry ON payments (authorization_expires_at) WHERE authorization_expires_at IS NOT NULL;
ALTER TABLE payments ADD PRIMARY KEY (id);

CREATE TABLE operations (
    id                uuid NOT NULL,
    payment_id        uuid NOT NULL,
    payment_intent_id uuid NOT NULL,
    refund_id         uuid,
    merchant_id       uuid NOT NULL,
    livemode          boolean NOT NULL,
    type              text NOT NULL CONSTRAINT operation_type_is_known CHECK (type IN ('sale', 'authorize', 'capture', 'void', 'refund')),
    status            text NOT NULL CONSTRAINT operation_status_is_known
                          CHECK (status IN ('requested', 'succeeded', 'declined', 'failed', 'unknown')),
    amount            bigint NOT NULL CONSTRAINT operation_amount_is_positive CHECK (amount > 0),
    currency          text NOT NULL,
    provider          text NOT NULL,
    provider_ref      text,
    purpose           text,
    actor             text NOT NULL,
    outcome           json,
    answer_event_id   uuid,
    next_lookup_at    timestamptz,
    lookups           integer NOT NULL DEFAULT 0,
    key_expires_at    timestamptz NOT NULL,
    requested_at      timestamptz NOT NULL,
    closed_at         timestamptz,
    CONSTRAINT refund_operation_has_its_refund CHECK ((type = 'refund') = (refund_id IS NOT NULL)),
    CONSTRAINT closed_operation_has_its_instant CHECK ((status IN ('succeeded', 'declined', 'failed')) = (closed_at IS NOT NULL)),
    CONSTRAINT closed_operation_has_its_answer CHECK (closed_at IS NULL OR answer_event_id IS NOT NULL)
) WITH (fillfactor = 70);
-- Money asked for twice at once is how customers are charged twice: one open authorize, capture or void per payment.
CREATE UNIQUE INDEX one_open_operation_per_payment ON operations (payment_id) WHERE status IN ('requested', 'unknown') AND type <> 'refund';
-- A refund is asked for once: its amount is reserved once.
CREATE UNIQUE INDEX one_operation_per_refund ON operations (refund_id) WHERE refund_id IS NOT NULL;
CREATE INDEX operations_payment ON operations (payment_id);
CREATE INDEX operations_lookup ON operations (next_lookup_at) WHERE next_lookup_at IS NOT NULL;
ALTER TABLE operations ADD PRIMARY KEY (id);

CREATE TABLE refunds (
    id            uuid NOT NULL,
    payment_id    uuid NOT NULL,
    merchant_id   uuid NOT NULL,
    livemode      boolean NOT NULL,
    amount        bigint NOT NULL CONSTRAINT refund_amount_is_positive CHECK (amount > 0),
    currency      text NOT NULL,
    reason        text CONSTRAINT refund_reason_is_within_255 CHECK (length(reason) <= 255),
    status        text NOT NULL,
    version       integer NOT NULL,
    last_event_id uuid NOT NULL,
    failure       json,
    provider_ref  text,
    metadata      jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    CONSTRAINT failed_refund_says_why CHECK ((status = 'failed') = (failure IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX refunds_payment ON refunds (payment_id);
CREATE INDEX refunds_merchant ON refunds (merchant_id, livemode, id);
ALTER TABLE refunds ADD PRIMARY KEY (id);

-- What a PSP says happened and no edge or limit admits: booked against suspense, and owned by somebody until it is resolved.
CREATE TABLE exceptions (
    id           uuid PRIMARY KEY,
    merchant_id  uuid NOT NULL,
    livemode     boolean NOT NULL,
    payment_id   uuid NOT NULL,
    operation_id uuid NOT NULL,
    kind         text NOT NULL,
    amount       bigint NOT NULL CONSTRAINT exception_amount_is_positive CHECK (amount > 0),
    currency     text NOT NULL,
    detail       json NOT NULL,
    status       text NOT NULL DEFAULT 'open' CONSTRAINT exception_is_open_or_resolved CHECK (status IN ('open', 'resolved')),
    opened_at    timestamptz NOT NULL,
    resolved_at  timestamptz,
    resolution   text,
    CONSTRAINT one_exception_per_operation_and_kind UNIQUE (operation_id, kind),
    CONSTRAINT resolved_exception_says_how CHECK ((status = 'resolved') = (resolved_at IS NOT NULL AND resolution IS NOT NULL))
);
CREATE INDEX exceptions_open ON exceptions (opened_at) WHERE status = 'open';

-- A statement that moves locked rows says how many it was given; when fewer moved, the lock and the statement do not speak of
-- the same rows, and the whole transaction ends here.
CREATE FUNCTION require_all_moved(moved bigint[], given bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF moved IS DISTINCT FROM given THEN
        RAISE EXCEPTION '% of % rows moved', moved, given USING ERRCODE = 'TG003', CONSTRAINT = 'every_locked_row_moves';
    END IF;
END $$;

-- How far a walk of the clock has come (intents' expiry): restarting it skips nothing.
CREATE TABLE clock_marks (
    name text PRIMARY KEY,
    at   timestamptz NOT NULL
);
CALL tollgate_grant('tollgate_writer', 'SELECT, INSERT, UPDATE', 'clock_marks');

CREATE TRIGGER payment_intent_begins_with_its_event AFTER INSERT ON payment_intents REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_birth_event('payment_intent');
CREATE TRIGGER payment_intent_moves_with_its_event AFTER UPDATE ON payment_intents REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_move_event('payment_intent');
CREATE TRIGGER payment_begins_with_its_event AFTER INSERT ON payments REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_birth_event('payment');
CREATE TRIGGER payment_moves_with_its_event AFTER UPDATE ON payments REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_move_event('payment');
CREATE TRIGGER refund_begins_with_its_event AFTER INSERT ON refunds REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_birth_event('refund');
CREATE TRIGGER refund_moves_with_its_event AFTER UPDATE ON refunds REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_move_event('refund');
CREATE TRIGGER operation_moves_legally AFTER UPDATE ON operations REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_legal_edge('operation');

-- An answer comes after the question. The condition costs nothing where it does not hold.
CREATE FUNCTION refuse_answered_birth() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an operation begins as requested, not as %', NEW.status
        USING ERRCODE = 'TG002', CONSTRAINT = 'operation_begins_as_requested';
END $$;
CREATE TRIGGER operation_begins_as_requested BEFORE INSERT ON operations
    FOR EACH ROW WHEN (NEW.status <> 'requested') EXECUTE FUNCTION refuse_answered_birth();

-- What a PSP is asked for is covered by the payment as it stands when the statement ends: never more than was authorized, and
-- money is taken only while it has not been taken. A refund is asked for as it was reserved.
CREATE FUNCTION require_asking_payment() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad record;
BEGIN
    SELECT f.type, f.amount, f.payment_id INTO bad
      FROM fresh f
     WHERE (SELECT 1
              FROM public.payments p
             WHERE p.id = f.payment_id AND p.payment_intent_id = f.payment_intent_id
               AND p.merchant_id = f.merchant_id AND p.livemode = f.livemode
               AND p.currency = f.currency AND p.provider = f.provider
               AND CASE f.type
                       WHEN 'refund' THEN (SELECT 1 FROM public.refunds r
                                            WHERE r.id = f.refund_id AND r.payment_id = f.payment_id AND r.amount = f.amount
                                              AND r.status = 'pending'
                                            LIMIT 1) IS NOT NULL
                       WHEN 'void' THEN f.amount <= p.amount
                       WHEN 'capture' THEN f.amount <= p.amount AND p.status = 'authorized'
                       ELSE f.amount <= p.amount AND p.status = 'pending_auth'
                   END
             LIMIT 1) IS NULL
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'payment % does not cover a % of %', bad.payment_id, bad.type, bad.amount
            USING ERRCODE = 'TG005', CONSTRAINT = 'operation_is_covered_by_its_payment';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER operation_is_covered_by_its_payment AFTER INSERT ON operations REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_asking_payment();

-- All refunds of a payment together are what the payment says is reserved and refunded, or less. The lock makes refunds that are
-- written at once see each other; the road holds it already.
CREATE FUNCTION require_covering_payments() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad record;
BEGIN
    PERFORM FROM public.payments p WHERE p.id = ANY(ARRAY(SELECT f.payment_id FROM fresh f)) ORDER BY p.id FOR NO KEY UPDATE;
    SELECT f.payment_id INTO bad
      FROM fresh f
     WHERE (SELECT 1
              FROM public.payments p
             CROSS JOIN LATERAL (SELECT coalesce(sum(r.amount) FILTER (WHERE r.status = 'pending'), 0) AS pending,
                                        coalesce(sum(r.amount) FILTER (WHERE r.status = 'succeeded'), 0) AS succeeded
                                   FROM public.refunds r
                                  WHERE r.payment_id = p.id) all_refunds
             WHERE p.id = f.payment_id AND p.merchant_id = f.merchant_id AND p.livemode = f.livemode AND p.currency = f.currency
               AND all_refunds.pending <= p.refund_reserved AND all_refunds.succeeded <= p.amount_refunded
             LIMIT 1) IS NULL
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'refunds of payment % are more than it says', bad.payment_id
            USING ERRCODE = 'TG005', CONSTRAINT = 'refunds_are_covered_by_their_payment';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER refunds_are_covered_by_their_payment AFTER INSERT ON refunds REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_covering_payments();
CREATE TRIGGER refunds_stay_covered_by_their_payment AFTER UPDATE ON refunds REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_covering_payments();

-- The other side of it. Row triggers, here and below, because their conditions cost nothing where they do not hold.
CREATE FUNCTION require_covered_refunds() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT coalesce(sum(r.amount) FILTER (WHERE r.status = 'pending'), 0) > NEW.refund_reserved
            OR coalesce(sum(r.amount) FILTER (WHERE r.status = 'succeeded'), 0) > NEW.amount_refunded
          FROM public.refunds r
         WHERE r.payment_id = NEW.id) THEN
        RAISE EXCEPTION 'payment % has more refunds than it would say', NEW.id
            USING ERRCODE = 'TG005', CONSTRAINT = 'payment_covers_its_refunds';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER payment_covers_its_refunds AFTER UPDATE ON payments
    FOR EACH ROW WHEN (NEW.refund_reserved < OLD.refund_reserved OR NEW.amount_refunded < OLD.amount_refunded)
    EXECUTE FUNCTION require_covered_refunds();

-- For conditions that say all of it; the trigger is named as the rule.
CREATE FUNCTION refuse_such_a_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% % cannot move like this', TG_TABLE_NAME, NEW.id USING ERRCODE = 'TG005', CONSTRAINT = TG_NAME;
END $$;
-- What was captured and what it cost is in the books.
CREATE TRIGGER what_was_captured_stays AFTER UPDATE ON payments
    FOR EACH ROW WHEN (OLD.amount_captured > 0
                       AND (NEW.amount_captured, NEW.fee, NEW.captured_at) IS DISTINCT FROM (OLD.amount_captured, OLD.fee, OLD.captured_at))
    EXECUTE FUNCTION refuse_such_a_move();
CREATE TRIGGER only_refunds_are_taken_back AFTER UPDATE ON operations
    FOR EACH ROW WHEN (OLD.status = 'succeeded' AND NEW.status = 'failed' AND NEW.type <> 'refund')
    EXECUTE FUNCTION refuse_such_a_move();
CREATE TRIGGER only_charges_are_found AFTER UPDATE ON operations
    FOR EACH ROW WHEN (OLD.status IN ('declined', 'failed') AND NEW.status = 'succeeded' AND NEW.type NOT IN ('sale', 'authorize'))
    EXECUTE FUNCTION refuse_such_a_move();

CREATE TRIGGER payment_intents_are_kept BEFORE DELETE OR TRUNCATE ON payment_intents
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal('payment_intents_are_kept');
CREATE TRIGGER payments_are_kept BEFORE DELETE OR TRUNCATE ON payments
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal('payments_are_kept');
CREATE TRIGGER operations_are_kept BEFORE DELETE OR TRUNCATE ON operations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal('operations_are_kept');
CREATE TRIGGER refunds_are_kept BEFORE DELETE OR TRUNCATE ON refunds
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal('refunds_are_kept');
CREATE TRIGGER exceptions_are_kept BEFORE DELETE OR TRUNCATE ON exceptions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal('exceptions_are_kept');

CALL tollgate_protect('customers');
CALL tollgate_protect('payment_intents');
CALL tollgate_protect('payments');
CALL tollgate_protect('operations');
CALL tollgate_protect('refunds');
CALL tollgate_protect('exceptions');
-- Only what moves may be written. Who a row belongs to and what was asked for stays: raising an amount would be a way around
-- every limit on it. An intent's amount and currency are the merchant's to change until they are confirmed.
DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['tollgate_app', 'tollgate_writer', 'tollgate_ops'] LOOP
        CALL tollgate_grant(one, 'SELECT, INSERT', 'customers, payment_intents, payments, operations, refunds, exceptions');
        CALL tollgate_grant(one, 'UPDATE (reference, name, email, metadata)', 'customers');
        CALL tollgate_grant(one, 'UPDATE (status, version, last_event_id, customer_id, reference, amount, currency, capture_method, '
            'payment_method, success_url, cancel_url, return_url, description, metadata, attempt_count, latest_payment_id, authorization_id, '
            'next_action, last_payment_error, cancel_requested, cancellation_reason, expires_at, updated_at)', 'payment_intents');
        CALL tollgate_grant(one, 'UPDATE (status, version, last_event_id, amount_captured, amount_refunded, refund_reserved, amount_disputed, '
            'provider_ref, provider_status, authorization_id, authorization_code, payment_method, fee, failure, pending_operation, '
            'latest_operation, metadata, updated_at, authorized_at, captured_at, authorization_expires_at)', 'payments');
        CALL tollgate_grant(one, 'UPDATE (status, provider_ref, outcome, answer_event_id, next_lookup_at, lookups, closed_at)', 'operations');
        CALL tollgate_grant(one, 'UPDATE (status, version, last_event_id, failure, provider_ref, metadata, updated_at)', 'refunds');
        CALL tollgate_grant(one, 'UPDATE (status, resolved_at, resolution)', 'exceptions');
    END LOOP;
END $$;
