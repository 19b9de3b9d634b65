import os
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import ids

# From the TypeID specification's list of valid ids.
SPECIFIED = [
    ("prefix", "0123456789abcdefghjkmnpqrs", "0110c8531d0952d8d73e1194e95b5f19"),
    ("prefix", "01h455vb4pex5vsknk084sn02q", "01890a5dac96774bbcceb302099a8057"),
    ("a", "00000000000000000000000000", "0" * 32),
    ("a", "7zzzzzzzzzzzzzzzzzzzzzzzzz", "f" * 32),
]


@pytest.mark.parametrize(("prefix", "suffix", "hexadecimal"), SPECIFIED)
def test_typeids_are_those_of_the_specification(prefix: str, suffix: str, hexadecimal: str) -> None:
    """A TypeID reads the same here as in every other implementation."""
    assert ids.typeid(prefix, hexadecimal) == f"{prefix}_{suffix}"
    assert ids.parse_typeid(prefix, f"{prefix}_{suffix}") == hexadecimal


@given(st.integers(0, 2**128 - 1))
def test_every_id_survives_the_way_out_and_back(number: int) -> None:
    """What goes out as a TypeID comes back as the same id."""
    inside = f"{number:032x}"

    assert ids.parse_typeid("pay", ids.typeid("pay", inside)) == inside


def test_a_new_id_is_a_uuid_of_version_7_of_this_instant() -> None:
    """The database's partitions and every reader of UUIDs may rely on version, variant and time."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)

    fresh = [ids.new_id() for _ in range(1000)]

    parsed = [uuid.UUID(one) for one in fresh]
    assert {one.version for one in parsed} == {7}
    assert {one.variant for one in parsed} == {uuid.RFC_4122}
    assert all(ids.first_id_at(before) <= one < ids.first_id_at(datetime.now(UTC) + timedelta(milliseconds=1)) for one in fresh)
    assert len(set(fresh)) == 1000


def test_random_bits_differ_in_all_places() -> None:
    """No bit of the 74 random ones is stuck, so an id cannot be guessed from another."""
    fresh = [int(ids.new_id(), 16) for _ in range(2000)]
    ever_one = ever_zero = 0
    for one in fresh:
        ever_one |= one
        ever_zero |= ~one
    random_bits = (1 << 62) - 1 | ((1 << 12) - 1) << 64

    assert ever_one & random_bits == random_bits
    assert ever_zero & random_bits == random_bits


def test_a_fork_does_not_repeat_its_parents_ids() -> None:
    """A child that inherits the pool of random bytes hands out none of them."""
    ids.new_id()
    reader, writer = os.pipe()

    child = os.fork()
    if child == 0:
        os.write(writer, "".join(ids.new_id()[12:] for _ in range(300)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()

    theirs = {text[start : start + 20] for start in range(0, len(text), 20)}
    ours = {ids.new_id()[12:] for _ in range(300)}
    assert len(theirs) == 300
    assert not theirs & ours


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pay",
        "pay_",
        "01h455vb4pex5vsknk084sn02q",
        "ref_01h455vb4pex5vsknk084sn02q",
        "pay_01H455VB4PEX5VSKNK084SN02Q",
        "pay_01h455vb4pex5vsknk084sn02",
        "pay_01h455vb4pex5vsknk084sn02qq",
        "pay_81h455vb4pex5vsknk084sn02q",
        "pay_01h455vb4pex5vsknk084sn02i",
        "pay_01h455vb4pex5vsknk084sn02\u0661",
        "pay_01h455vb4pex5vsknk084sn02q\n",
        "pay_pay_01h455vb4pex5vsknk084sn02q",
        " pay_01h455vb4pex5vsknk084sn02q",
        "01890a5d-ac96-774b-bcce-b302099a8057",
    ],
)
def test_only_the_canonical_spelling_is_an_id(text: str) -> None:
    """Another spelling of an id is refused, so an object has one name."""
    with pytest.raises(ids.MalformedId):
        ids.parse_typeid("pay", text)


def test_the_first_id_of_an_instant_is_the_bound_that_partitions_use() -> None:
    """Milliseconds in the first twelve digits, zeros behind them."""
    assert ids.first_id_at(datetime(2026, 11, 1, tzinfo=UTC)) == f"{1793491200000:012x}" + "0" * 20
