-- Why: merchants and readers of the feed believe events, so an event must be a legal move of its machine and must not tell of what is
-- not so. Each is written in the statement that makes or moves its object, and when that ends the object names this event as its
-- last. So an object has one event per version, none tells of an object that is not there, and none is added afterwards. Needs every
-- table with a status.
CREATE FUNCTION require_told_objects() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad record;
BEGIN
    SELECT f.object_type, f.object_id, f.sequence, f.event, f.from_status, f.to_status, t.known INTO bad
      FROM fresh f
      LEFT JOIN LATERAL (SELECT true AS known
                           FROM public.state_transitions s
                          WHERE s.machine = f.object_type AND s.from_status = f.from_status AND s.event = f.event
                            AND s.to_status = f.to_status
                          LIMIT 1) t ON true
     WHERE t.known IS NULL
        OR CASE f.object_type
               WHEN 'payment' THEN (SELECT 1 FROM public.payments o
                                     WHERE o.id = f.object_id AND o.last_event_id = f.id AND o.version = f.sequence
                                       AND o.status = f.to_status AND o.merchant_id = f.merchant_id AND o.livemode = f.livemode
                                     LIMIT 1)
               WHEN 'payment_intent' THEN (SELECT 1 FROM public.payment_intents o
                                            WHERE o.id = f.object_id AND o.last_event_id = f.id AND o.version = f.sequence
                                              AND o.status = f.to_status AND o.merchant_id = f.merchant_id AND o.livemode = f.livemode
                                            LIMIT 1)
               WHEN 'refund' THEN (SELECT 1 FROM public.refunds o
                                    WHERE o.id = f.object_id AND o.last_event_id = f.id AND o.version = f.sequence
                                      AND o.status = f.to_status AND o.merchant_id = f.merchant_id AND o.livemode = f.livemode
                                    LIMIT 1)
               WHEN 'webhook_endpoint' THEN (SELECT 1 FROM public.webhook_endpoints o
                                              WHERE o.id = f.object_id AND o.last_event_id = f.id AND o.version = f.sequence
                                                AND o.status = f.to_status AND o.merchant_id = f.merchant_id AND o.livemode = f.livemode
                                              LIMIT 1)
           END IS NULL
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF bad.known IS NULL THEN
        RAISE EXCEPTION '% in % cannot go to % by %', bad.object_type, bad.from_status, bad.to_status, bad.event
            USING ERRCODE = 'TG001', CONSTRAINT = 'move_is_legal';
    END IF;
    RAISE EXCEPTION 'no % % has come to version %', bad.object_type, bad.object_id, bad.sequence
        USING ERRCODE = 'TG002', CONSTRAINT = 'event_is_the_last_of_its_object';
END $$;
CREATE TRIGGER event_is_the_last_of_its_object AFTER INSERT ON events REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION require_told_objects();
