-- Why: a merchant that did not hear our answer asks again. The key is written by the transaction of the effect, so either
-- both are there or neither; the answer of a waiting route is found through its operation, so an answer that is still open is
-- never stored.
CREATE TABLE idempotency_keys (
    merchant_id   uuid NOT NULL,
    livemode      boolean NOT NULL,
    route         text NOT NULL,
    key           text NOT NULL CONSTRAINT idempotency_key_is_1_to_255_long CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint   bytea NOT NULL,
    object_id     uuid,
    operation_id  uuid,
    event_id      uuid,
    answer_status smallint,
    answer        text,
    moves_money   boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    PRIMARY KEY (merchant_id, livemode, route, key),
    CONSTRAINT idempotency_key_leads_to_an_answer CHECK (answer IS NOT NULL OR event_id IS NOT NULL OR operation_id IS NOT NULL),
    CONSTRAINT idempotency_key_lives_a_day CHECK (expires_at >= created_at + interval '24 hours')
);
-- For the purge, which never asks for the others.
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at) WHERE NOT moves_money;

-- A key that moved money refuses a second time for ever. The condition costs nothing where it does not hold.
CREATE FUNCTION refuse_key_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the key % moved money and is kept', OLD.key
        USING ERRCODE = 'TG004', CONSTRAINT = 'keys_that_moved_money_are_kept';
END $$;
CREATE TRIGGER keys_that_moved_money_are_kept BEFORE DELETE ON idempotency_keys
    FOR EACH ROW WHEN (OLD.moves_money) EXECUTE FUNCTION refuse_key_removal();

CALL tollgate_protect('idempotency_keys');
CALL tollgate_grant('tollgate_app', 'SELECT, INSERT', 'idempotency_keys');
CALL tollgate_grant('tollgate_writer', 'SELECT, INSERT, DELETE', 'idempotency_keys');
CALL tollgate_grant('tollgate_writer', 'UPDATE (answer, event_id)', 'idempotency_keys');
