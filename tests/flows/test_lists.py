"""Lists: newest first, pages by cursor, filters, and refusals of what is no filter."""

from urllib.parse import quote

import pytest

from tests.flows.shop import Json, Shop

LISTS = ("/v1/payment_intents", "/v1/payments", "/v1/refunds")


async def listed(shop: Shop, path: str) -> list[Json]:
    page = await shop.read(path)
    assert (page["object"], page["url"]) == ("list", path.split("?", maxsplit=1)[0])
    found: list[Json] = page["data"]
    return found


def ids(objects: list[Json]) -> list[str]:
    return [one["id"] for one in objects]


async def test_pages_follow_each_other(shop: Shop) -> None:
    """Five intents in pages of two, forwards to the end and backwards again, each exactly once."""
    made = [(await shop.intent())["id"] for _ in range(5)]
    newest_first = made[::-1]

    seen, more, after = [], True, ""
    while more:
        page = await shop.read(f"/v1/payment_intents?limit=2{after}")
        seen += ids(page["data"])
        more, after = page["has_more"], f"&starting_after={seen[-1]}"
    back = await shop.read(f"/v1/payment_intents?limit=2&ending_before={seen[-1]}")
    first = await shop.read(f"/v1/payment_intents?limit=2&ending_before={seen[1]}")

    assert seen == newest_first
    assert (ids(back["data"]), back["has_more"]) == (newest_first[2:4], True)
    assert (ids(first["data"]), first["has_more"]) == (newest_first[:1], False)


async def test_twenty_are_shown_unless_more_are_asked_for(shop: Shop) -> None:
    """The default is 20, the most is 100."""
    for _ in range(21):
        await shop.intent(None)

    short, whole = await shop.read("/v1/payment_intents"), await shop.read("/v1/payment_intents?limit=100")
    assert (len(short["data"]), short["has_more"], len(whole["data"]), whole["has_more"]) == (20, True, 21, False)


async def test_filters_narrow(shop: Shop) -> None:
    """Status, reference, created_at and tenant, alone and together."""
    old = await shop.intent(None, reference="order 1")
    paid = await shop.intent(reference="order 2")
    await shop.confirm(paid)
    declined = await shop.intent("declined", reference="order 2")
    await shop.confirm(declined)
    since = quote((await shop.read(f"/v1/payment_intents/{paid['id']}"))["created_at"])

    async def intents(query: str) -> list[str]:
        return ids(await listed(shop, f"/v1/payment_intents?{query}"))

    assert await intents("status=succeeded") == [paid["id"]]
    assert await intents("reference=order+2") == [declined["id"], paid["id"]]
    assert await intents("reference=order%202&status=requires_payment_method") == [declined["id"]]
    assert await intents(f"created_at[gte]={since}") == [declined["id"], paid["id"]]
    assert await intents(f"created_at[gt]={since}") == [declined["id"]]
    assert await intents(f"created_at[lte]={since}") == [paid["id"], old["id"]]
    assert await intents(f"created_at[lt]={since}") == [old["id"]]
    assert await intents(f"created_at[gte]={since}&created_at[lt]={since}") == []
    assert await intents("customer_id=cus_01h455vb4pex5vsknk084sn02q") == []


async def test_failed_payments_of_a_tenant_are_found_with_their_reasons(shop: Shop) -> None:
    """What the provider said stands with them: reference, status, failure, instants."""
    await shop.pay()
    declined = await shop.intent("insufficient_funds")
    await shop.confirm(declined)
    merchant_id = declined["merchant_id"]

    for tenant in (merchant_id, shop.merchant.name):
        (failed,) = await listed(shop, f"/v1/payments?status=failed&tenant={quote(tenant)}")
        assert failed["failure"]["decline_code"] == "insufficient_funds"
        assert (failed["provider"], failed["provider_status"]) == ("sandbox", "declined")
        assert failed["provider_ref"]
        assert failed["created_at"] <= failed["updated_at"]


async def test_another_tenant_is_403(shop: Shop, neighbour: Shop) -> None:
    """A merchant's key sees its own."""
    reply = await shop.get(f"/v1/payments?tenant={quote(neighbour.merchant.name)}")

    assert (reply.status, reply.json["code"]) == (403, "forbidden")


async def test_refunds_are_listed_by_payment_and_status(shop: Shop) -> None:
    """The newest first, of one payment or of all."""
    payment, other = await shop.pay(), await shop.pay()
    first, second, third = [(await shop.refund(one, 10)).json["id"] for one in (payment, payment, other)]

    assert ids(await listed(shop, f"/v1/refunds?payment_id={payment['id']}")) == [second, first]
    assert ids(await listed(shop, "/v1/refunds?status=succeeded")) == [third, second, first]
    assert await listed(shop, "/v1/refunds?status=failed") == []


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("statuss=failed", "unknown_filter"),
        ("status=paid", "invalid_request"),
        ("limit=0", "invalid_request"),
        ("limit=101", "invalid_request"),
        ("limit=ten", "invalid_request"),
        ("starting_after=nonsense", "invalid_cursor"),
        ("ending_before=cus_01h455vb4pex5vsknk084sn02q", "invalid_cursor"),
        ("created_at[gte]=yesterday", "invalid_request"),
        ("created_at=2026-01-01T00:00:00Z", "unknown_filter"),
        ("status=failed&status=failed", "invalid_request"),
    ],
)
async def test_what_is_no_filter_is_400(shop: Shop, path: str, query: str, code: str) -> None:
    """A misspelt filter would show everything."""
    reply = await shop.get(f"{path}?{query}")

    assert (reply.status, reply.json["code"]) == (400, code)


@pytest.mark.parametrize(("path", "prefix"), list(zip(LISTS, ("pi", "pay", "ref"), strict=True)))
async def test_one_cursor_at_a_time(shop: Shop, path: str, prefix: str) -> None:
    """`starting_after` or `ending_before`."""
    cursor = f"{prefix}_01h455vb4pex5vsknk084sn02q"
    reply = await shop.get(f"{path}?starting_after={cursor}&ending_before={cursor}")

    assert (reply.status, reply.json["param"]) == (400, "ending_before")


async def test_lists_and_objects_show_the_same(shop: Shop) -> None:
    """What stands in a list is what the object's own address shows, but for the secret."""
    payment = await shop.pay()
    refund = (await shop.refund(payment, 10)).json
    intent = await shop.read(f"/v1/payment_intents/{payment['payment_intent_id']}")
    del intent["client_secret"]

    assert await listed(shop, "/v1/payment_intents") == [intent]
    assert await listed(shop, "/v1/payments") == [await shop.payment(payment)]
    assert await listed(shop, "/v1/refunds") == [await shop.read(f"/v1/refunds/{refund['id']}")]
