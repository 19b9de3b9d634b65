"""Takes secrets out of a finished line, whatever put them there: the last look before anything leaves the process."""

import re
from collections.abc import Iterable

SECRET = b"[secret]"
CARD = b"[card number]"

# A short one would be found inside ordinary words.
_SHORTEST_KNOWN = 8
# Each pattern needs one of its marks in the line; looking for marks costs a tenth of looking for patterns.
_PATTERNS = (
    (
        (b"_test_", b"_live_", b"ops_", b"whsec_", b"_secret_", b"tok_"),
        re.compile(rb"\b(?:(?:sk|pk)_(?:test|live)|ops|whsec|tok)_[A-Za-z0-9_+/=-]{8,}|(?<=_secret_)[A-Za-z0-9_=-]{8,}"),
    ),
    ((b"earer ",), re.compile(rb"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]+")),
    ((b"://",), re.compile(rb"(?<=://)[^\s\"\\/@]+(?=@)")),
)
# 13 to 19 digits, perhaps in groups, that begin as card numbers do and pass their check digit. Ids of hex digits are no words of
# digits alone, or longer.
_CARD = re.compile(rb"(?<![0-9A-Za-z])[2-6](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z])")
_NINES = b"9" * 13
_CARD_IN_TEXT = re.compile(_CARD.pattern.decode())
_DIGITS_AS_NINES = bytes(0x39 if 0x30 <= code <= 0x39 else code for code in range(256))

# What Postgres adds to a refused row: its contents.
_ROW_CONTENTS = re.compile(r"^(\s*DETAIL:).*$", re.MULTILINE)


class Scrubber:
    """`known` are this installation's own secrets, looked for word by word."""

    __slots__ = ("_known", "_marks", "_text_marks")

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = tuple({one.encode() for one in known if len(one) >= _SHORTEST_KNOWN})
        self._marks = tuple(mark for marks, _ in _PATTERNS for mark in marks) + self._known
        self._text_marks = tuple(mark.decode() for mark in self._marks)

    def suspects(self, text: str) -> bool:
        """Whether this may hold a secret, for a line of which only `text` is not our own words; a short look instead of a long one."""
        for mark in self._text_marks:
            if mark in text:
                return True
        return _CARD_IN_TEXT.search(text) is not None

    def __call__(self, line: bytes) -> bytes:
        for mark in self._marks:
            if mark in line:
                line = self._without_secrets(line)
                break
        # Groups count as one number, so what stands between them is left out while looking.
        if _NINES in line.translate(_DIGITS_AS_NINES, b" -"):
            line = _CARD.sub(_masked, line)
        return line

    def _without_secrets(self, line: bytes) -> bytes:
        for secret in self._known:
            line = line.replace(secret, SECRET)
        for _, pattern in _PATTERNS:
            line = pattern.sub(SECRET, line)
        return line


def without_row_contents(text: str) -> str:
    """A message of Postgres without the values that it quotes: they may be anybody's name."""
    return _ROW_CONTENTS.sub(r"\1 left out", text) if "DETAIL:" in text else text


def _masked(found: "re.Match[bytes]") -> bytes:
    digits = [byte - 0x30 for byte in found.group() if 0x30 <= byte <= 0x39]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return CARD if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 else found.group()
