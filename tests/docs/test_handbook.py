"""What the pages say of the code is so: names of files, variables, commands, tokens, codes, links."""

import re
import time
from pathlib import Path

import click
import msgspec
import pytest
from standardwebhooks import Webhook

from app.cli import tollgate
from app.commands.describe import ALL_MACHINES
from app.core.errors import ERRORS
from app.settings import VARIABLES
from app.webhooks.present import EventView
from app.webhooks.signing import shown, signature
from sandbox.cards import CARDS
from tests.docs.pages import PAGES, ROOT, blocks, prose

DOCS = ROOT / "docs"
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#]+)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links between pages and to files are relative and exist."""
    links = {link for link in _LINK.findall(prose(page)) if "://" not in link and not link.startswith("mailto:")}

    assert {link for link in links if not (page.parent / link).exists()} == set()


def test_every_page_of_the_handbook_is_in_its_index() -> None:
    """A page that nobody finds is not there."""
    index = (DOCS / "README.md").read_text(encoding="utf-8")

    assert {page.name for page in DOCS.glob("*.md") if f"]({page.name})" not in index} == {"README.md"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_exists(page: Path) -> None:
    """`tollgate …` on a page is a command of this code."""
    wrong = set()
    for words in re.findall(
        r"\btollgate((?: [a-z][a-z-]+)+)", "\n".join([*_CODE.findall(prose(page)), *blocks(page, "console"), *blocks(page, "sh")])
    ):
        found: click.Command = tollgate
        for word in words.split():
            if not isinstance(found, click.Group):
                break
            if word not in found.commands:
                wrong.add(words.strip())
                break
            found = found.commands[word]
    # The README of the whole says of these that they are not there yet.
    assert wrong - {"recover"} == set()


@pytest.mark.parametrize("page", [DOCS / "operating.md", ROOT / "README.md", DOCS / "upgrade.md"], ids=name)
def test_every_variable_exists(page: Path) -> None:
    """Variables in capitals are those that are read."""
    known = {variable.name for variable in VARIABLES} | {"SIGTERM", "NOTIFY", "LISTEN"}
    told = {word for word in _CODE.findall(prose(page)) if re.fullmatch(r"[A-Z]+(_[A-Z]+)*", word)}

    assert told - known == set()


def test_the_flow_names_files_that_exist() -> None:
    """Whoever follows a payment at night opens these; a bare name is a file of the payments."""
    page = DOCS / "payment-flow.md"
    files = {code for code in _CODE.findall(prose(page)) if code.endswith(".py")}
    places = (ROOT, ROOT / "app/payments", ROOT / "app/webhooks")

    assert len(files) > 20
    assert {file for file in files if not any((place / file).exists() for place in places)} == set()


def test_the_sandbox_cards_are_those_of_the_sandbox() -> None:
    """Each token of the page gives an outcome, and each card of the sandbox is on the page."""
    told = set(re.findall(r"^\| `(tok_sandbox_\w+)`", (DOCS / "sandbox-cards.md").read_text(encoding="utf-8"), re.MULTILINE))

    assert told == set(CARDS)


@pytest.mark.parametrize("page", [DOCS / "integrating.md", DOCS / "webhooks.md"], ids=name)
def test_every_code_of_an_error_exists(page: Path) -> None:
    """A status with a code beside it names one of the closed table."""
    told = set(re.findall(r"\b4\d\d\s+`(\w+)`", page.read_text(encoding="utf-8")))

    assert told - {error.code for error in ERRORS} == set()


def test_the_types_on_the_page_are_those_that_are_announced() -> None:
    """Each announced move of each machine is a type on the page, and nothing else is."""
    page = (DOCS / "webhooks.md").read_text(encoding="utf-8")
    told = {of: set(_CODE.findall(types)) for of, types in re.findall(r"^\| `(\w+)` \| ((?:`\w+` ?)+)\|$", page, re.MULTILINE)}
    announced = {machine.name: {edge.event for edge in machine.edges if edge.announced} for machine in ALL_MACHINES}

    assert told == {name: events for name, events in announced.items() if events}


def test_the_event_on_the_page_has_the_members_of_an_event() -> None:
    """The example body is what arrives, but for its values."""
    [body] = blocks(DOCS / "webhooks.md", "json")

    assert set(msgspec.json.decode(body)) == set(EventView.__struct_fields__) - {"truncated"}


def test_the_verifier_on_the_page_agrees_with_the_reference_library() -> None:
    """What Tollgate signs passes both; a changed body, another secret and an old message pass neither."""
    [program] = blocks(DOCS / "webhooks.md", "python")
    page: dict[str, object] = {"__name__": "receiver"}
    exec(compile(program, "receiver.py", "exec"), page)
    verify = page["verify"]
    assert callable(verify)
    secret, body, moment = b"s" * 32, b'{"id":"evt_1"}', int(time.time())

    def headers(*, at: int = moment, keys: tuple[bytes, ...] = (b"n" * 32, secret)) -> dict[str, str]:
        signed = signature(keys, message_id="evt_1", timestamp=at, body=body)
        return {"webhook-id": "evt_1", "webhook-timestamp": str(at), "webhook-signature": signed}

    assert Webhook(shown(secret)).verify(body.decode(), headers()) == {"id": "evt_1"}
    assert verify(shown(secret), headers(), body)
    assert not verify(shown(secret), headers(), body + b" ")
    assert not verify(shown(secret), headers(keys=(b"n" * 32,)), body)
    assert not verify(shown(secret), headers(at=moment - 301), body)
