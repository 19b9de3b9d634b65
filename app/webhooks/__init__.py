"""Telling merchants what happened: endpoints, the fan-out of events, signed delivery with retries, and the feed of events.

Beside the usual files: `signing` (secrets and signatures), `addresses` (which URLs and addresses are never called), `sending`
(the HTTP client, the only one outside `app.providers`), `fan_out` (which rows an event makes), `deliveries` (the delivery log)
and `feed` (`GET /v1/events`).
"""
