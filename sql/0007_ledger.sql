-- Why: the books are kept in double entry, in the transaction of the fact that they book. Nothing is ever rewritten: a mistake is
-- undone by a reversal. Balances follow the entries by a trigger under a role that nobody can log in as, so wallets equal the
-- ledger by construction.

CREATE TABLE ledger_accounts (
    account_id  text PRIMARY KEY,
    normal_side text NOT NULL CONSTRAINT ledger_account_is_normally_debit_or_credit CHECK (normal_side IN ('debit', 'credit')),
    owner       text NOT NULL CONSTRAINT ledger_account_is_of_merchant_or_platform CHECK (owner IN ('merchant', 'platform')),
    description text NOT NULL
);
INSERT INTO ledger_accounts (account_id, normal_side, owner, description) VALUES
    ('customer_payment_clearing', 'debit', 'platform', 'Money that payers have paid and a PSP holds for us'),
    ('merchant_pending', 'credit', 'merchant', 'Captured for a merchant and not yet released by settlement'),
    ('merchant_available', 'credit', 'merchant', 'Released and ready to be paid out'),
    ('merchant_fee_expense', 'debit', 'merchant', 'Fees that a merchant owes, taken off what is pending'),
    ('platform_revenue', 'credit', 'platform', 'Fees earned'),
    ('authorization_holds', 'debit', 'merchant', 'Authorized and neither captured nor let go'),
    ('authorization_holds_contra', 'credit', 'merchant', 'The other side of holds, which move no money'),
    ('psp_suspense', 'credit', 'platform', 'What a PSP says happened and no rule of ours admits, until it is resolved');

CREATE TABLE ledger_transactions (
    transaction_id uuid PRIMARY KEY,
    merchant_id    uuid NOT NULL,
    livemode       boolean NOT NULL,
    type           text NOT NULL CONSTRAINT ledger_transaction_type_is_known
                       CHECK (type IN ('auth', 'capture', 'release', 'refund', 'suspense', 'fee', 'payout', 'reversal')),
    reference_id   uuid NOT NULL,
    payment_id     uuid,
    reverses_type  text,
    -- As it was posted; the view `ledger_journal` says what has become of it.
    status         text NOT NULL,
    -- Leads the trigger to the entries by one probe of one partition, and ties them to the statement of their transaction.
    first_entry_id uuid NOT NULL,
    created_at     timestamptz NOT NULL,
    CONSTRAINT operation_is_posted_once UNIQUE (reference_id, type),
    CONSTRAINT ledger_hold_is_pending_and_all_else_is_posted CHECK (status = CASE WHEN type = 'auth' THEN 'pending' ELSE 'posted' END),
    CONSTRAINT ledger_reversal_names_what_it_reverses CHECK ((type = 'reversal') = (reverses_type IS NOT NULL))
);
CREATE INDEX ledger_transactions_payment ON ledger_transactions (payment_id);

CREATE TABLE ledger_entries (
    entry_id       uuid PRIMARY KEY,
    transaction_id uuid NOT NULL,
    merchant_id    uuid NOT NULL,
    livemode       boolean NOT NULL,
    account_id     text NOT NULL,
    direction      text NOT NULL CONSTRAINT ledger_entry_is_debit_or_credit CHECK (direction IN ('debit', 'credit')),
    amount         bigint NOT NULL CONSTRAINT ledger_entry_amount_is_positive CHECK (amount > 0),
    currency       text NOT NULL CONSTRAINT ledger_entry_currency_is_iso_4217 CHECK (currency ~ '^[A-Z]{3}$'),
    created_at     timestamptz NOT NULL
) PARTITION BY RANGE (entry_id);
CREATE INDEX ledger_entries_account ON ledger_entries (merchant_id, account_id);
-- The last one: among indexes that look alike, as in a partition that is still empty, the planner takes the youngest.
CREATE INDEX ledger_entries_transaction ON ledger_entries (transaction_id);
CALL tollgate_make_partitions('ledger_entries', 2);

-- What a merchant is owed. Captured facts may drive a balance below zero; only payouts are limited by it.
CREATE TABLE wallets (
    wallet_id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    merchant_id       uuid NOT NULL,
    livemode          boolean NOT NULL,
    currency          text NOT NULL,
    pending_balance   bigint NOT NULL,
    available_balance bigint NOT NULL,
    version           bigint NOT NULL DEFAULT 1,
    CONSTRAINT one_wallet_per_merchant_mode_and_currency UNIQUE (merchant_id, livemode, currency)
) WITH (fillfactor = 50);

CREATE TRIGGER ledger_accounts_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewrite('ledger_accounts_are_append_only');
CREATE TRIGGER ledger_transactions_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewrite('ledger_transactions_are_append_only');
CREATE TRIGGER ledger_entries_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewrite('ledger_entries_are_append_only');

-- All entries of a transaction come in the one statement that brings its first entry, so a sum over the new rows is the sum over
-- the whole transaction, for ever. Merchant and mode are part of the group: an entry of another merchant would stand alone.
CREATE FUNCTION require_balanced_entries() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    bad record;
BEGIN
    SELECT grouped.transaction_id, grouped.currency, grouped.difference, known.found, grouped.accounts_known INTO bad
      FROM (SELECT f.transaction_id,
                   f.merchant_id,
                   f.livemode,
                   f.currency,
                   sum(CASE f.direction WHEN 'debit' THEN f.amount ELSE -f.amount END) AS difference,
                   bool_and(f.account_id IN (SELECT a.account_id FROM ledger_accounts a)) AS accounts_known
              FROM fresh f
             GROUP BY f.transaction_id, f.merchant_id, f.livemode, f.currency) grouped
      LEFT JOIN LATERAL (SELECT true AS found
                           FROM ledger_transactions t
                          WHERE t.transaction_id = grouped.transaction_id
                            AND t.merchant_id = grouped.merchant_id
                            AND t.livemode = grouped.livemode
                            AND t.first_entry_id IN (SELECT f.entry_id FROM fresh f)
                          LIMIT 1) known ON true
     WHERE grouped.difference <> 0 OR known.found IS NULL OR NOT grouped.accounts_known
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF bad.found IS NULL THEN
        RAISE EXCEPTION 'entries of % do not come with a transaction of their merchant and mode', bad.transaction_id
            USING ERRCODE = 'TG012', CONSTRAINT = 'ledger_entries_come_with_their_transaction';
    ELSIF NOT bad.accounts_known THEN
        RAISE EXCEPTION 'an entry of % names an account that is not in ledger_accounts', bad.transaction_id
            USING ERRCODE = 'TG013', CONSTRAINT = 'ledger_entry_account_is_known';
    END IF;
    RAISE EXCEPTION 'debits less credits of % are % in %', bad.transaction_id, bad.difference, bad.currency
        USING ERRCODE = 'TG011', CONSTRAINT = 'ledger_transaction_sums_to_zero';
END $$;

-- A transaction has entries. And a reversal is the mirror of what it reverses, entry by entry; both lists sorted and compared as
-- wholes, so that neither a missing original nor a missing entry passes for agreement.
CREATE FUNCTION require_whole_transactions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    bad uuid;
BEGIN
    SELECT f.transaction_id INTO bad
      FROM fresh f
     WHERE (SELECT 1 FROM ledger_entries e WHERE e.entry_id = f.first_entry_id AND e.transaction_id = f.transaction_id LIMIT 1) IS NULL
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger transaction % has no entries', bad USING ERRCODE = 'TG014', CONSTRAINT = 'ledger_transaction_has_entries';
    END IF;
    -- Reversals are rare, and only to begin the next statement costs as much as all the rest.
    IF NOT EXISTS (SELECT FROM fresh f WHERE f.type = 'reversal') THEN
        RETURN NULL;
    END IF;
    SELECT f.transaction_id INTO bad
      FROM fresh f
     WHERE f.type = 'reversal'
       AND ((SELECT array_agg(ROW (e.account_id, e.direction, e.amount, e.currency)::text
                              ORDER BY e.account_id, e.direction, e.amount, e.currency)
               FROM ledger_entries e
              WHERE e.transaction_id = f.transaction_id)
            IS NOT DISTINCT FROM
            (SELECT array_agg(ROW (e.account_id, m.direction, e.amount, e.currency)::text
                              ORDER BY e.account_id, m.direction, e.amount, e.currency)
               FROM ledger_transactions t
               JOIN ledger_entries e ON e.transaction_id = t.transaction_id
               CROSS JOIN LATERAL (SELECT CASE e.direction WHEN 'debit' THEN 'credit' ELSE 'debit' END AS direction) m
              WHERE t.reference_id = f.reference_id AND t.type = f.reverses_type AND t.type <> 'reversal'
                AND t.merchant_id = f.merchant_id AND t.livemode = f.livemode)) IS NOT TRUE
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'reversal % is not the mirror of what it reverses', bad
            USING ERRCODE = 'TG015', CONSTRAINT = 'ledger_reversal_mirrors_its_original';
    END IF;
    RETURN NULL;
END $$;

-- One INSERT in the order of the key: new wallets are made and old ones locked in the same order by everybody, so two batches
-- over the same merchants wait for each other and never in a circle.
CREATE FUNCTION write_wallets() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO wallets AS w (merchant_id, livemode, currency, pending_balance, available_balance)
    SELECT f.merchant_id,
           f.livemode,
           f.currency,
           sum(CASE WHEN f.account_id = 'merchant_available' THEN 0 WHEN f.direction = 'credit' THEN f.amount ELSE -f.amount END),
           sum(CASE WHEN f.account_id <> 'merchant_available' THEN 0 WHEN f.direction = 'credit' THEN f.amount ELSE -f.amount END)
      FROM fresh f
     WHERE f.account_id IN ('merchant_pending', 'merchant_fee_expense', 'merchant_available')
     GROUP BY f.merchant_id, f.livemode, f.currency
     ORDER BY f.merchant_id, f.livemode, f.currency
        ON CONFLICT ON CONSTRAINT one_wallet_per_merchant_mode_and_currency DO UPDATE
       SET pending_balance = w.pending_balance + excluded.pending_balance,
           available_balance = w.available_balance + excluded.available_balance,
           version = w.version + 1;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_entries_balance AFTER INSERT ON ledger_entries REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_balanced_entries();
CREATE TRIGGER wallets_follow_the_ledger AFTER INSERT ON ledger_entries REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION write_wallets();
CREATE TRIGGER ledger_transactions_are_whole AFTER INSERT ON ledger_transactions REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_whole_transactions();

-- A payment is not captured without being booked. The books are written by a statement after the payment's, so this asks when the
-- transaction ends; a payment is captured once, so it is asked once per payment.
CREATE FUNCTION require_booked_capture() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT 1 FROM public.ledger_transactions t
         WHERE t.payment_id = NEW.id AND t.type = 'capture' AND t.merchant_id = NEW.merchant_id AND t.livemode = NEW.livemode
         LIMIT 1) IS NULL THEN
        RAISE EXCEPTION 'payment % is captured and not in the books', NEW.id
            USING ERRCODE = 'TG016', CONSTRAINT = 'captured_payment_is_booked';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER captured_payment_is_booked AFTER UPDATE ON payments DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.amount_captured = 0 AND NEW.amount_captured > 0)
    EXECUTE FUNCTION require_booked_capture();

-- The books as an accountant reads them, with what has become of each transaction.
CREATE VIEW ledger_journal WITH (security_invoker = true) AS
SELECT t.transaction_id,
       t.merchant_id,
       t.livemode,
       t.type,
       t.reference_id,
       t.payment_id,
       CASE WHEN EXISTS (SELECT FROM ledger_transactions r
                          WHERE r.reference_id = t.reference_id AND r.type = 'reversal' AND r.reverses_type = t.type)
              OR t.type = 'auth' AND EXISTS (SELECT FROM ledger_transactions r
                                              WHERE r.payment_id = t.payment_id AND r.type IN ('capture', 'release'))
            THEN 'reversed' ELSE t.status END AS status,
       t.created_at
  FROM ledger_transactions t;

CALL tollgate_protect('ledger_transactions');
CALL tollgate_protect('ledger_entries');
CALL tollgate_protect('wallets');
CALL tollgate_grant('tollgate_app', 'SELECT', 'ledger_accounts, ledger_transactions, ledger_entries, wallets, ledger_journal');
CALL tollgate_grant('tollgate_ops', 'SELECT', 'ledger_accounts, ledger_transactions, ledger_entries, wallets, ledger_journal');
CALL tollgate_grant('tollgate_writer', 'SELECT', 'ledger_accounts, ledger_transactions, ledger_entries, wallets, ledger_journal');
CALL tollgate_grant('tollgate_writer', 'INSERT', 'ledger_transactions, ledger_entries');
CALL tollgate_grant('tollgate_ledger', 'SELECT', 'ledger_accounts, ledger_transactions, ledger_entries');
CALL tollgate_grant('tollgate_ledger', 'SELECT, INSERT, UPDATE', 'wallets');

-- The functions run as the one role that may write wallets and that sees every row: a check that row-level security blinds would
-- take absence for validity. Handing a function over needs CREATE on the schema for a moment where no superuser migrates.
DO $$
DECLARE
    one text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tollgate_ledger') THEN
        RETURN;
    END IF;
    GRANT USAGE, CREATE ON SCHEMA public TO tollgate_ledger;
    FOREACH one IN ARRAY ARRAY['require_balanced_entries', 'require_whole_transactions', 'write_wallets'] LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %I() FROM PUBLIC', one);
        EXECUTE format('ALTER FUNCTION %I() OWNER TO tollgate_ledger', one);
    END LOOP;
    REVOKE CREATE ON SCHEMA public FROM tollgate_ledger;
END $$;
