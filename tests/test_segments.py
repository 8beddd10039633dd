import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, strategies as st

import tbpay
from tbpay.errors import InvalidInputError
from tbpay.segments import (
    MAX_CHARACTERS,
    Culprit,
    Encoding,
    SegmentCount,
    count_segments,
    measure,
)

# The table of 3GPP TS 23.038, column by column, without its escape to the extension table.
COLUMNS = [
    "@£$¥èéùìòÇ\nØø\rÅå",
    "Δ_ΦΓΛΩΠΨΣΘΞÆæßÉ",
    " !\"#¤%&'()*+,-./",
    "0123456789:;<=>?",
    "¡ABCDEFGHIJKLMNO",
    "PQRSTUVWXYZÄÖÑÜ§",
    "¿abcdefghijklmno",
    "pqrstuvwxyzäöñüà",
]
BASIC = "".join(COLUMNS)
EXTENSION = "\f^{}\\[~]|€"

GSM_7, UCS_2 = Encoding.GSM_7, Encoding.UCS_2
EMOJI = "\U0001f600"

# Lone surrogates too: an argument whose bytes are not UTF-8 arrives with some.
texts = st.text(st.characters(), min_size=1, max_size=MAX_CHARACTERS)
# Few kinds of characters, so that the lengths decide: what stands at a border, and what is astride.
few_kinds = st.lists(
    st.tuples(st.sampled_from(["a", "]", "é", "ж", EMOJI, "\n", "\r\n"]), st.integers(1, 160)),
    min_size=1,
    max_size=6,
).map(lambda runs: "".join(char * times for char, times in runs)[:MAX_CHARACTERS])
gsm_texts = st.text(st.sampled_from(BASIC + EXTENSION), min_size=1, max_size=MAX_CHARACTERS)


@pytest.mark.parametrize(
    ("text", "encoding", "units", "segments"),
    [
        ("a", GSM_7, 1, 1),
        ("a" * 160, GSM_7, 160, 1),
        ("a" * 161, GSM_7, 161, 2),
        ("a" * 306, GSM_7, 306, 2),
        ("a" * 307, GSM_7, 307, 3),
        ("a" * 1_600, GSM_7, 1_600, 11),
        ("€" * 80, GSM_7, 160, 1),
        ("€" * 80 + "a", GSM_7, 161, 2),
        # 76 pairs fill 152 of 153 units: the last unit of each part stays empty.
        ("]" * 152, GSM_7, 304, 2),
        ("]" * 153, GSM_7, 306, 3),
        ("a" + "]" * 152 + "a", GSM_7, 306, 2),
        ("a" * 152 + "]" + "a" * 152, GSM_7, 306, 3),
        ("a" * 80 + "\n" + "b" * 79, GSM_7, 160, 1),
        ("a" * 80 + "\r\n" + "b" * 79, GSM_7, 161, 2),
        ("ж", UCS_2, 1, 1),
        ("ж" * 70, UCS_2, 70, 1),
        ("ж" * 71, UCS_2, 71, 2),
        ("ж" * 134, UCS_2, 134, 2),
        ("ж" * 135, UCS_2, 135, 3),
        ("a" * 69 + "ж", UCS_2, 70, 1),
        ("a" * 70 + "ж", UCS_2, 71, 2),
        # In UCS-2 the extension characters are one unit again.
        ("]" * 69 + "ж", UCS_2, 70, 1),
        (EMOJI, UCS_2, 2, 1),
        (EMOJI * 35, UCS_2, 70, 1),
        (EMOJI * 36, UCS_2, 72, 2),
        ("a" * 66 + EMOJI + "a" * 66, UCS_2, 134, 3),
        ("a" * 65 + EMOJI + "a" * 67, UCS_2, 134, 2),
        (EMOJI * 1_600, UCS_2, 3_200, 49),
        ("Your code is 1234 €", GSM_7, 20, 1),
    ],
    ids=lambda it: f"{it[:3]!a}…{len(it)}" if isinstance(it, str) and len(it) > 6 else None,
)
def test_a_text_is_as_many_segments_as_twilio_bills(
    text: str, encoding: Encoding, units: int, segments: int
) -> None:
    counted = count_segments(text)

    assert (counted.encoding, counted.units, counted.segments) == (encoding, units, segments)


@given(texts | few_kinds | gsm_texts)
def test_segments_are_counted_as_by_cutting_the_text_into_parts(text: str) -> None:
    encoding, units, segments = measure(text)

    widths = [width(char, encoding) for char in text]
    assert encoding == (GSM_7 if all(char in BASIC + EXTENSION for char in text) else UCS_2)
    assert units == sum(widths)
    assert segments == len(list(parts(widths, *SIZES[encoding])))
    assert segments >= -(-units // SIZES[encoding][0])


SIZES = {GSM_7: (160, 153), UCS_2: (70, 67)}


def width(char: str, encoding: Encoding) -> int:
    if encoding is UCS_2:
        return len(char.encode("utf-16-be", "surrogatepass")) // 2
    return 2 if char in EXTENSION else 1


def parts(widths: list[int], alone: int, room: int) -> Iterator[list[int]]:
    if sum(widths) <= alone:
        yield widths
        return
    while widths:
        fits = max(n for n in range(1, len(widths) + 1) if sum(widths[:n]) <= room)
        yield widths[:fits]
        widths = widths[fits:]


@given(texts)
def test_a_count_says_the_same_with_and_without_its_culprits(text: str) -> None:
    counted = count_segments(text)

    assert (counted.encoding, counted.units, counted.segments) == measure(text)


def test_the_alphabet_is_the_whole_table_and_nothing_else() -> None:
    every = (
        chr(code) for code in chain(range(0x3000), range(0xD7F0, 0xE010), range(0xFE00, 0x10100))
    )
    gsm = {char for char in every if count_segments(char).encoding is GSM_7}

    assert len(BASIC) == 127
    assert gsm == set(BASIC + EXTENSION)


@pytest.mark.parametrize(
    ("char", "replacement"),
    [
        ("`", "'"),
        ("\t", " "),
        ("\xa0", " "),
        ("\u2009", " "),
        ("\u3000", " "),
        ("‘", "'"),
        ("’", "'"),
        ("“", '"'),
        ("”", '"'),
        ("–", "-"),
        ("—", "-"),
        ("−", "-"),
        ("…", "..."),
        ("ﬁ", "fi"),
        ("Ａ", "A"),
        ("１", "1"),
        ("！", "!"),
        ("㎏", "kg"),
        ("\u2126", "Ω"),
        ("e\u0301", "é"),
        ("N\u0303", "Ñ"),
        ("\u200b", ""),
        ("\ufeff", ""),
        ("\xad", ""),
        ("\ufe00", ""),
        ("\ufe0f", ""),
        ("\u2028", "\n"),
        ("½", "1/2"),
        ("÷", "/"),
        ("\u02bb", "'"),
        ("〞", '"'),
        ("\u02c6", "^"),
        ("∼", "~"),
        ("✱", "*"),
        ("。", "."),
        ("､", ","),
        ("∶", ":"),
        ("⏐", "|"),
        # What means something else without its form, or has no plain form at all.
        ("²", None),
        ("㎡", None),
        ("①", None),
        ("ç", None),
        ("c\u0327", None),
        ("á", None),
        ("\u0301", None),
        ("Α", None),
        ("ж", None),
        ("中", None),
        (EMOJI, None),
        ("\0", None),
        ("\x1b", None),
        ("\udcff", None),
        ("\uffff", None),
        ("\U0010ffff", None),
    ],
    ids=ascii,
)
def test_what_turns_a_text_to_ucs_2_is_named_with_what_would_not(
    char: str, replacement: str | None
) -> None:
    counted = count_segments(f"ab{char}z")

    assert counted.encoding is UCS_2
    # A mark alone combines with the letter before it.
    culprit = Culprit(1, f"b{char}", None) if char == "\u0301" else Culprit(2, char, replacement)
    assert counted.culprits == (culprit,)


def test_a_fraction_behind_a_digit_has_no_replacement() -> None:
    assert [culprit.replacement for culprit in count_segments("5½, ½").culprits] == [None, "1/2"]


def test_every_culprit_is_named_where_it_stands() -> None:
    counted = count_segments("“Hi” … it’s")

    assert counted == SegmentCount(
        encoding=UCS_2,
        units=11,
        segments=1,
        culprits=(
            Culprit(0, "“", '"'),
            Culprit(3, "”", '"'),
            Culprit(5, "…", "..."),
            Culprit(9, "’", "'"),
        ),
    )


def test_marks_and_their_letter_are_one_culprit() -> None:
    assert count_segments("e\u0301e\u0301").culprits == (
        Culprit(0, "e\u0301", "é"),
        Culprit(2, "e\u0301", "é"),
    )
    assert count_segments("o\u0302\u0301").culprits == (Culprit(0, "o\u0302\u0301", None),)
    assert count_segments("\u0301a").culprits == (Culprit(0, "\u0301", None),)


def test_a_gsm_text_has_no_culprits() -> None:
    assert count_segments(BASIC + EXTENSION) == SegmentCount(GSM_7, 147, 1, ())


@given(texts)
def test_culprits_are_all_that_is_not_in_the_alphabet(text: str) -> None:
    culprits = count_segments(text).culprits

    covered = {
        position
        for culprit in culprits
        for position in range(culprit.position, culprit.position + len(culprit.character))
    }
    foreign = {position for position, char in enumerate(text) if char not in BASIC + EXTENSION}
    assert foreign <= covered
    assert all(unicodedata.combining(text[position + 1]) for position in covered - foreign)
    for culprit in culprits:
        assert text.startswith(culprit.character, culprit.position)
        assert set(culprit.replacement or "") <= set(BASIC + EXTENSION)


replaceable = st.text(st.sampled_from("ab]'`’“”…–\xa0\t\u200bＡé"), min_size=1, max_size=300)


@given(replaceable)
def test_a_text_with_all_replacements_is_gsm(text: str) -> None:
    culprits = count_segments(text).culprits
    for culprit in reversed(culprits):
        assert culprit.replacement is not None
        end = culprit.position + len(culprit.character)
        text = text[: culprit.position] + culprit.replacement + text[end:]

    assert set(text) <= set(BASIC + EXTENSION)


@pytest.mark.parametrize("text", [None, True, 7, b"hi", ["hi"]])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(InvalidInputError, match="a text must be text, not "):
        count_segments(text)


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"^a text needs at least one character$"):
        count_segments("")


@pytest.mark.parametrize("char", ["a", "]", "ж", EMOJI, "\ud83d"])
def test_a_text_that_is_too_long_is_refused_and_says_so(char: str) -> None:
    assert count_segments(char * 1_600).segments > 10

    with pytest.raises(
        InvalidInputError, match=r"^a text has at most 1,600 characters, and this has 1,601$"
    ):
        count_segments(char * 1_601)


def test_the_package_has_the_names() -> None:
    assert tbpay.count_segments is count_segments
    assert tbpay.SegmentCount is SegmentCount
    assert tbpay.Culprit is Culprit
