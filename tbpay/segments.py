"""How many segments a text is, counted as Twilio bills them.

A text whose characters are all in the GSM 7-bit alphabet goes as GSM-7: 160 units in one segment,
153 in each of several, and ten characters of its extension table take two units. One other
character turns the whole text to UCS-2, where a unit is one of UTF-16: 70 in one segment, 67 in
each of several. Segments are filled one after the other, and no pair of units is split between
two, so that the number is not always the quotient rounded up: 153 brackets are 306 units and three
segments.

The alphabet is that of 3GPP TS 23.038, the sizes are those of
https://www.twilio.com/docs/glossary/what-sms-character-limit. A toll-free sender of the US and
Canada has a little less room, 152 and 66, but which sender a text gets is not known here.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tbpay.errors import InvalidInputError, excerpt

MAX_CHARACTERS = 1_600
"""What Twilio takes at most: https://www.twilio.com/docs/api/errors/21617."""

# These take two units: over the air an escape goes before each.
_EXTENSION = "^{}\\[~]|€\f"
_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_ALPHABET = _BASIC + _EXTENSION
_GSM7 = re.compile(f"[{re.escape(_ALPHABET)}]*")
# What most texts are: campaigns wait for nothing more than this.
_PLAIN = re.compile(f"[{re.escape(_BASIC)}]{{1,160}}")


class Encoding(StrEnum):
    """How a text goes over the air."""

    GSM_7 = "GSM-7"
    UCS_2 = "UCS-2"


@dataclass(frozen=True)
class Culprit:
    """What turned a text to UCS-2: a character, with the marks that combine with it.

    ``position`` counts the text's characters from 0. ``replacement`` is GSM-7 text that reads the
    same, nothing for what is not seen at all; None where there is none.
    """

    position: int
    character: str
    replacement: str | None


@dataclass(frozen=True)
class SegmentCount:
    """How many ``segments`` a text is, and why: its encoding and the units that it takes in it."""

    encoding: Encoding
    units: int
    segments: int
    culprits: tuple[Culprit, ...] = ()


def count_segments(text: str) -> SegmentCount:
    """Count a text's segments, and name every character that keeps it out of GSM-7.

    ``text`` has 1 … 1,600 characters, any of them: NUL and lone surrogates are counted too. Raises
    InvalidInputError.
    """
    encoding, units, segments = measure(text)
    culprits = () if encoding is Encoding.GSM_7 else _culprits(text)
    return SegmentCount(encoding, units, segments, culprits)


def measure(text: str) -> tuple[Encoding, int, int]:
    """Answer encoding, units and segments alone, for many texts; else as ``count_segments``."""
    if type(text) is str and _PLAIN.fullmatch(text):
        return Encoding.GSM_7, len(text), 1
    if type(text) is not str:
        raise InvalidInputError(f"a text must be text, not {excerpt(text)}")
    if not text:
        raise InvalidInputError("a text needs at least one character")
    if len(text) > MAX_CHARACTERS:
        raise InvalidInputError(
            f"a text has at most {MAX_CHARACTERS:,} characters, and this has {len(text):,}"
        )
    # No loop over the characters but where it matters which of them stands at a border.
    if _GSM7.fullmatch(text):
        encoding, alone, room = Encoding.GSM_7, 160, 153
        units = len(text) + sum(map(text.count, _EXTENSION))
    else:
        encoding, alone, room = Encoding.UCS_2, 70, 67
        units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    if units <= alone:
        return encoding, units, 1
    if units == len(text):
        return encoding, units, -(-units // room)
    gsm = encoding is Encoding.GSM_7
    pairs = (char in _EXTENSION if gsm else char > "\uffff" for char in text)
    return encoding, units, _parts(pairs, room)


def _parts(pairs: Iterable[bool], room: int) -> int:
    """Count the parts that are filled one after the other by units and by pairs of them."""
    parts, free = 1, room
    for pair in pairs:
        width = 2 if pair else 1
        if width > free:
            parts, free = parts + 1, room
        free -= width
    return parts


def _culprits(text: str) -> tuple[Culprit, ...]:
    spans: list[tuple[int, int]] = []
    for position, char in enumerate(text):
        if char in _ALPHABET:
            continue
        start = position
        if position and unicodedata.combining(char):
            start = spans.pop()[0] if spans and spans[-1][1] == position else position - 1
        spans.append((start, position + 1))
    return tuple(
        Culprit(start, text[start:end], _replacement(text[start:end], text[:start][-1:]))
        for start, end in spans
    )


_REPLACEMENTS = {
    **dict.fromkeys("`´‘’‚‛′‵‹›❛❜\u02b9\u02bb\u02bc\u02bd\u02c8\u02ca\u02cb", "'"),
    **dict.fromkeys("“”„‟″‶«»❝❞〝〞\u02ba\u02ee", '"'),
    **dict.fromkeys("‐‑‒–—―−⁃", "-"),
    **dict.fromkeys("•·∗⁎✱", "*"),
    **dict.fromkeys("⁄∕⧸÷", "/"),
    **dict.fromkeys("∣⏐", "|"),
    **dict.fromkeys("\u02d0∶꞉", ":"),
    **dict.fromkeys("\u02dc∼", "~"),
    # Spaces of every width, and the tab.
    **dict.fromkeys("\t\u00a0\u1680\u202f\u205f\u3000", " "),
    **{chr(code): " " for code in range(0x2000, 0x200B)},
    **dict.fromkeys("\u0085\u2028\u2029", "\n"),
    # What is not seen: soft hyphen, joiners, marks of direction, mark of the byte order, and what
    # chooses between the forms of the character before it.
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", ""),
    **{chr(code): "" for code in range(0xFE00, 0xFE10)},
    "\u02c6": "^",
    "、": ",",
    "。": ".",
    "×": "x",
    "™": "TM",
}
# Forms that mean something else than the plain characters in them: 10² is not 102.
_MEANING = ("<super>", "<sub>", "<circle>")


def _replacement(character: str, before: str) -> str | None:
    if character in _REPLACEMENTS:
        return _REPLACEMENTS[character]
    parts = unicodedata.decomposition(character[0])
    if parts.startswith("<fraction>") and before.isdigit():
        return None  # 5½ is not 51/2
    inner = (chr(int(code, 16)) for code in parts.split() if not code.startswith("<"))
    if any(unicodedata.decomposition(it).startswith(_MEANING) for it in (character[0], *inner)):
        return None
    normal = unicodedata.normalize("NFKC", character)
    plain = "".join(_REPLACEMENTS.get(each, each) for each in normal)
    return plain if _GSM7.fullmatch(plain) else None
