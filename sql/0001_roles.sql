-- Why: the application must not own what it writes to. Four roles stand between it and the tables, so that a mistake in a
-- query meets a refusal of the database: `tollgate_app` sees one merchant and one mode at a time, `tollgate_writer` runs the
-- reviewed set-based statements of many merchants, `tollgate_ops` is an operator, `tollgate_ledger` alone may touch wallets.
-- A platform that forbids CREATE ROLE goes on without them; `tollgate config check` then says which guards are absent.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['tollgate_app', 'tollgate_writer', 'tollgate_ops', 'tollgate_ledger'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOBYPASSRLS', wanted);
            EXCEPTION
                -- Roles belong to the whole server: another database's migration may have been quicker.
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN
                    RAISE WARNING 'role % cannot be created here: row-level security is absent', wanted;
            END;
        END IF;
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                -- Also where we are a member already: from 16 on, whoever creates a role may administer it and not SET ROLE to it.
                EXECUTE format('GRANT %I TO %I', wanted, current_user);
            EXCEPTION
                WHEN insufficient_privilege THEN
                    RAISE WARNING 'role % exists and cannot be taken by %: row-level security is absent', wanted, current_user;
            END;
        END IF;
    END LOOP;
END $$;

-- Names are looked up among a session's temporary tables first. Our functions name the schema of what they read; that nobody makes
-- such tables is the second guard. A copy made with CREATE DATABASE … TEMPLATE has the rights of a new database again.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND pg_has_role(current_user, datdba, 'USAGE')) THEN
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    ELSE
        RAISE WARNING 'the database is not ours: whoever connects may make temporary tables';
    END IF;
END $$;

-- A worker that stops in the middle of a transaction must not hold its locks; no statement of the road takes seconds.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['tollgate_app', 'tollgate_writer', 'tollgate_ops'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', wanted);
        END IF;
    END LOOP;
END $$;

-- `CALL tollgate_grant('tollgate_app', 'SELECT, INSERT', 'payments')`: a grant that does nothing where the role is absent.
CREATE PROCEDURE tollgate_grant(role_name text, privileges text, relation text) LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
        EXECUTE format('GRANT %s ON %s TO %I', privileges, relation, role_name);
    END IF;
END $$;

-- Row-level security for a table with `merchant_id` and `livemode`: one merchant and mode for the application, all rows for
-- the reviewed statements of the writer and for operators. `current_setting` without a default makes absence an error.
CREATE PROCEDURE tollgate_protect(relation text) LANGUAGE plpgsql AS $$
DECLARE
    reviewed text;
BEGIN
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', relation);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', relation);
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tollgate_app') THEN
        EXECUTE format(
            'CREATE POLICY %I ON %I TO tollgate_app USING ('
            'merchant_id = (SELECT current_setting(''tollgate.merchant_id'')::uuid) '
            'AND livemode = (SELECT current_setting(''tollgate.livemode'')::boolean))',
            relation || '_tenant', relation);
    END IF;
    FOREACH reviewed IN ARRAY ARRAY['tollgate_writer', 'tollgate_ops', 'tollgate_ledger'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = reviewed) THEN
            EXECUTE format('CREATE POLICY %I ON %I TO %I USING (true) WITH CHECK (true)', relation || '_' || reviewed, relation, reviewed);
        END IF;
    END LOOP;
    -- The owner migrates and archives; without this the forced policies would hide every row from it.
    EXECUTE format('CREATE POLICY %I ON %I TO %I USING (true) WITH CHECK (true)', relation || '_owner', relation, current_user);
END $$;
