"""How a request becomes a call and a result becomes an answer; what every route of the API shares.

A folder of its own and no capability: it owns no rows and no use cases. Each capability declares its routes on top of it, and
`app.main` makes one Litestar handler of each path. Litestar routes and catches; what is per request is done here on raw ASGI
messages, because a Litestar `Request` and `Response` cost more than all of our own work together (measured, one process:
handlers with `Request` and `Response` 18,000 requests/s, raw ASGI handlers under the same app 40,000).

    class CreateIntent(Body):
        amount: Amount
        currency: str

    async def create_intent(call: Call[CreateIntent]) -> Answer:
        intent = await actions.create(call.resources.of(Lanes), ...)
        return answer(201, encode(intent), etag=intent.version)

    INTENTS = Query((text("reference"), *instants("created_at")), pages="pi")
    ROUTES = (
        Route("POST", "/v1/payment_intents", create_intent, body=CreateIntent, answers={201: Intent}, errors=(NoRoute,)),
        Route("GET", "/v1/payment_intents/{payment_intent_id:pi}", show_intent, answers={200: Intent}),
        Route("GET", "/v1/payment_intents", list_intents, query=INTENTS, answers={200: list_of(Intent)}),
    )

Before a handler runs, its caller is known, path ids are parsed (a malformed one is 404), the body is decoded strictly into the
declared struct, `idempotency_key`, `fingerprint`, `wait_seconds`, `if_match` and `page` are read. A handler raises a
`DomainError` or returns an `Answer`; both get the common headers. A capability that needs something to live as long as the
process (a lane, a listener) exports `async def lifespan(resources)` as an async context manager and puts it there with
`resources.add(thing)`.
"""

from app.http.answers import Answer, answer, answer_list, list_of
from app.http.bodies import Amount, Body, Currency, Description, Metadata, PatchMetadata, Reference, body_id
from app.http.call import Call
from app.http.lists import Page, Query, choice, ident, instant, instants, text
from app.http.resources import Resources
from app.http.routes import Route

__all__ = [
    "Amount",
    "Answer",
    "Body",
    "Call",
    "Currency",
    "Description",
    "Metadata",
    "Page",
    "PatchMetadata",
    "Query",
    "Reference",
    "Resources",
    "Route",
    "answer",
    "answer_list",
    "body_id",
    "choice",
    "ident",
    "instant",
    "instants",
    "list_of",
    "text",
]
