-- Why: every row of money belongs to somebody, and every request comes from a key. Only a hash of the key is kept: whoever reads
-- this table can call nothing. Operator keys belong to no merchant and to no mode.
CREATE TABLE merchants (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CONSTRAINT merchant_name_is_1_to_200_long CHECK (length(name) BETWEEN 1 AND 200),
    api_version text NOT NULL CONSTRAINT merchant_version_is_a_date CHECK (api_version ~ '^\d{4}-\d{2}-\d{2}$'),
    created_at  timestamptz NOT NULL
);

CREATE TABLE api_keys (
    id           uuid PRIMARY KEY,
    merchant_id  uuid REFERENCES merchants (id),
    livemode     boolean,
    kind         text NOT NULL CONSTRAINT api_key_kind_is_known CHECK (kind IN ('secret', 'publishable', 'operator')),
    hash         bytea NOT NULL CONSTRAINT api_key_hash_is_sha256 CHECK (octet_length(hash) = 32),
    prefix       text NOT NULL CONSTRAINT api_key_prefix_gives_nothing_away CHECK (length(prefix) BETWEEN 4 AND 12),
    last4        text NOT NULL CONSTRAINT api_key_last4_is_4_long CHECK (length(last4) = 4),
    api_version  text NOT NULL CONSTRAINT api_key_version_is_a_date CHECK (api_version ~ '^\d{4}-\d{2}-\d{2}$'),
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CONSTRAINT api_key_hash_is_unique UNIQUE (hash),
    CONSTRAINT operator_key_belongs_to_no_merchant CHECK ((kind = 'operator') = (merchant_id IS NULL)),
    CONSTRAINT operator_key_has_no_mode CHECK ((kind = 'operator') = (livemode IS NULL)),
    CONSTRAINT api_key_expires_after_it_begins CHECK (expires_at > created_at),
    CONSTRAINT api_key_is_revoked_after_it_begins CHECK (revoked_at >= created_at)
);
CREATE INDEX api_keys_merchant ON api_keys (merchant_id, id);

-- What operators did and why. Nobody takes anything back from it.
CREATE TABLE operator_acts (
    id          uuid PRIMARY KEY,
    occurred_at timestamptz NOT NULL,
    key_id      uuid,
    actor       text NOT NULL CONSTRAINT operator_act_names_its_actor CHECK (length(actor) BETWEEN 1 AND 200),
    act         text NOT NULL CONSTRAINT operator_act_has_a_name CHECK (length(act) BETWEEN 1 AND 100),
    subject     text NOT NULL CONSTRAINT operator_act_has_a_subject CHECK (length(subject) BETWEEN 1 AND 1000),
    reason      text NOT NULL CONSTRAINT operator_act_has_a_reason CHECK (length(reason) BETWEEN 1 AND 1000)
);

CREATE FUNCTION refuse_operator_act_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what operators did is append-only' USING ERRCODE = 'restrict_violation', CONSTRAINT = 'operator_acts_are_append_only';
END $$;
CREATE TRIGGER operator_acts_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_acts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_operator_act_change();

-- A key never changes hands: what opens a door today opened the same door yesterday.
CREATE FUNCTION refuse_api_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.id, OLD.merchant_id, OLD.livemode, OLD.kind, OLD.hash, OLD.created_at)
        IS DISTINCT FROM (NEW.id, NEW.merchant_id, NEW.livemode, NEW.kind, NEW.hash, NEW.created_at) THEN
        RAISE EXCEPTION 'an API key keeps its owner, its kind and its hash'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'api_key_identity_is_fixed';
    END IF;
    IF OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at THEN
        RAISE EXCEPTION 'a revoked API key stays revoked'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'api_key_revocation_is_final';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER api_key_identity_is_fixed BEFORE UPDATE ON api_keys FOR EACH ROW EXECUTE FUNCTION refuse_api_key_change();

-- Merchants have no mode, and keys of operators no merchant, so their policies are written out instead of `tollgate_protect`.
DO $$
DECLARE
    reviewed text;
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['merchants', 'api_keys', 'operator_acts'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', relation);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', relation);
        EXECUTE format('CREATE POLICY %I ON %I TO %I USING (true) WITH CHECK (true)', relation || '_owner', relation, current_user);
        FOREACH reviewed IN ARRAY ARRAY['tollgate_writer', 'tollgate_ops'] LOOP
            IF EXISTS (SELECT FROM pg_roles WHERE rolname = reviewed) THEN
                EXECUTE format('CREATE POLICY %I ON %I TO %I USING (true) WITH CHECK (true)', relation || '_' || reviewed, relation, reviewed);
            END IF;
        END LOOP;
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tollgate_app') THEN
        CREATE POLICY merchants_tenant ON merchants TO tollgate_app
            USING (id = (SELECT current_setting('tollgate.merchant_id')::uuid));
        CREATE POLICY api_keys_tenant ON api_keys TO tollgate_app
            USING (merchant_id = (SELECT current_setting('tollgate.merchant_id')::uuid)
                   AND livemode = (SELECT current_setting('tollgate.livemode')::boolean));
    END IF;
END $$;

-- The application may read the merchant it works for; keys are found for it by the writer, whose statement is reviewed.
CALL tollgate_grant('tollgate_app', 'SELECT', 'merchants');
CALL tollgate_grant('tollgate_writer', 'SELECT', 'merchants, api_keys');
CALL tollgate_grant('tollgate_writer', 'UPDATE (last_used_at)', 'api_keys');
CALL tollgate_grant('tollgate_ops', 'SELECT, INSERT', 'merchants, api_keys, operator_acts');
CALL tollgate_grant('tollgate_ops', 'UPDATE (expires_at, revoked_at, api_version)', 'api_keys');
