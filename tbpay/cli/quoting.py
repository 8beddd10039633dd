"""``tbpay pricing quote``: what a message costs to a number, to several, or to all of a file."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tbpay.cli.exits import UsageError
from tbpay.cli.options import chosen, in_one_amount, show
from tbpay.cli.output import Format, note, write
from tbpay.cli.parameters import At, Segments, Text, ToSpend, argument, option
from tbpay.cli.parsers import AccountRef, parse_account, parse_phone
from tbpay.errors import Code, RefusedError, excerpt
from tbpay.money import exact_cents, show_micros

if TYPE_CHECKING:
    from tbpay.campaigns import Campaign, Cover
    from tbpay.segments import Culprit
    from tbpay.sms_pricing import Quote

# On a screen there is room for so many; JSON has them all, of refused lines the first thousand.
SHOWN_CULPRITS = 10
NOTED_CULPRITS = 3
SHOWN_POSITIONS = 5
SHOWN_REFUSED = 20


def quote(
    numbers: Annotated[
        list[str] | None,
        argument(
            parse_phone, "NUMBER...", "Phone numbers: + and digits; spaces, - . ( ) do no harm."
        ),
    ] = None,
    segments: Segments = None,
    text: Text = None,
    text_file: Annotated[
        str | None, option("--text-file", str, "F", "A file with the message, - for stdin.")
    ] = None,
    file: Annotated[
        str | None,
        option(
            "--file",
            str,
            "F",
            "Numbers, one a line, or CSV with a column number and perhaps text; - for stdin.",
        ),
    ] = None,
    amount: ToSpend = None,
    account: Annotated[
        AccountRef | None,
        option("--account", parse_account, "A", "Say whether this account's balance carries it."),
    ] = None,
    at: At = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a country without a price of its own.")
    ] = False,
) -> None:
    """Quote what a message costs: to one number, to several, or to every number in a file.

    A text's segments are counted as Twilio bills them; a toll-free sender of the US and Canada has
    a little less room in each.
    """
    _require_one_message(segments, text, text_file)
    if (file is None) == (not numbers):
        raise UsageError("give NUMBER or --file, one of the two")
    if file is not None and amount is not None:
        raise UsageError("--amount is for NUMBER, and --file was given")
    if file == text_file == "-":
        raise UsageError("--file and --text-file cannot both be read from stdin")
    if account is not None and numbers and len(numbers) > 1:
        raise UsageError("--account is for one NUMBER or --file, and several NUMBER were given")
    account_id = None if account is None else account.find()
    if account_id is not None and file is not None:
        _require_account(account_id)
    if text_file is not None:
        from tbpay import files

        with files.opened(text_file) as opened:
            text = opened.text()
    if file is not None:
        _quote_campaign(file, segments, text, account_id, at, strict=strict)
    else:
        _quote_numbers(numbers or [], segments, text, amount, account_id, at, strict=strict)


def _require_account(account_id: int) -> None:
    """Refuse an account that is not there before a long file is read for it."""
    from tbpay.stores import balance_store

    balance_store.get_balance(account_id)


def _require_one_message(segments: int | None, text: str | None, text_file: str | None) -> None:
    flags = {"--segments": segments, "--text": text, "--text-file": text_file}
    given = [name for name, value in flags.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other")


# --- numbers ---


def _quote_numbers(
    numbers: Sequence[str],
    segments: int | None,
    text: str | None,
    amount_cents: int | None,
    account_id: int | None,
    at: datetime | None,
    *,
    strict: bool,
) -> None:
    from tbpay import sms_pricing

    quoted = [
        sms_pricing.quote(number, segments=segments, text=text, amount_cents=amount_cents, at=at)
        for number in numbers
    ]
    unpriced = dict.fromkeys(one.country for one in quoted if one.fallback)
    if strict:
        _refuse_unpriced(list(unpriced))
    for country in unpriced:
        note(f"no price for {country}: the rate of US stands in")
    if len(quoted) > 1:
        show(
            quoted,
            columns=(
                "phone",
                "country",
                "assumed",
                "fallback",
                "segments",
                "rate_cents",
                "cost_cents",
                "segments_for_amount",
            ),
        )
        if chosen().format is Format.TABLE:
            _note_culprits(quoted[0])
        return
    [one] = quoted
    cover = _cover(account_id, one.cost_micros)
    show(
        asdict(one) | (asdict(cover) if cover is not None else {}),
        people=lambda _: _lines_of(one) | _lines_of_cover(cover),
    )


def _lines_of(quoted: "Quote") -> dict[str, object]:
    """Answer a quote as people read it: what says the same twice is said once, in cents."""
    lines: dict[str, object] = {
        name: value
        for name, value in asdict(quoted).items()
        if value is not None and name != "culprits" and not name.endswith("_micros")
    }
    if quoted.twilio_cost_micros is not None:
        lines["twilio_cost_cents"] = exact_cents(quoted.twilio_cost_micros)
    told = _told(quoted.culprits)
    lines |= {f"culprit_{number}": it for number, it in enumerate(told[:SHOWN_CULPRITS], 1)}
    if len(told) > SHOWN_CULPRITS:
        lines["more_culprits"] = len(told) - SHOWN_CULPRITS
    return lines


def _note_culprits(counted_text: "Quote | Campaign") -> None:
    """Say once what forced UCS-2 on a text that goes to many."""
    if told := _told(counted_text.culprits):
        more = len(told) - NOTED_CULPRITS
        shown = "; ".join(told[:NOTED_CULPRITS]) + (f"; and {more:,} more" if more > 0 else "")
        units = counted(counted_text.units or 0, "unit")
        note(f"the text is {counted_text.encoding}, {units}: {shown}")


def _told(culprits: "Sequence[Culprit]") -> list[str]:
    """Say of each character that forced UCS-2 where it is and what to write instead."""
    places: dict[tuple[str, str | None], list[str]] = {}
    for culprit in culprits:
        places.setdefault((culprit.character, culprit.replacement), []).append(
            str(culprit.position)
        )
    told = []
    for (character, replacement), found in places.items():
        more = len(found) - SHOWN_POSITIONS
        where = ", ".join(found[:SHOWN_POSITIONS]) + (f" and {more:,} more" if more > 0 else "")
        match replacement:
            case None:
                instead = "GSM-7 has nothing like it"
            case "":
                instead = "leave it out"
            case _:
                instead = f"write {excerpt(replacement)}"
        name = " ".join(f"U+{ord(each):04X}" for each in character)
        told.append(f"{excerpt(character)} {name} at {where}: {instead}")
    return told


# --- a campaign ---


def _quote_campaign(
    file: str,
    segments: int | None,
    text: str | None,
    account_id: int | None,
    at: datetime | None,
    *,
    strict: bool,
) -> None:
    from tbpay import campaigns, files
    from tbpay.cli.progress import progress

    with progress("numbers") as tell:
        campaign = campaigns.estimate(file, segments=segments, text=text, at=at, on_progress=tell)
    if strict:
        _refuse_unpriced([it.country_code for it in campaign.unpriced])
    cover = _cover(account_id, campaign.cost_micros)
    match chosen().format:
        case Format.JSON:
            show(vars(campaign) | (asdict(cover) if cover is not None else {}))
            if campaign.refused_lines > len(campaign.refused):
                first = f"the first {len(campaign.refused):,}"
                note(f"of {campaign.refused_lines:,} refused lines {first} are named")
        case Format.TABLE:
            _show_campaign(campaign, cover)
            _note_culprits(campaign)
        case _:
            show(campaign.countries, kind=campaigns.CountryShare)
            _note_what_rows_leave_out(campaign, cover)
            _note_culprits(campaign)
    if not campaign.recipients and not campaign.unpriced:
        note(f"no recipients in {files.shown_name(file)}")


def _show_campaign(campaign: "Campaign", cover: "Cover | None") -> None:
    from tbpay.cli.bars import bar

    if campaign.countries:
        show(
            [
                vars(share) | {"": bar(share.cost_micros, campaign.cost_micros)}
                for share in campaign.countries
            ],
            columns=(
                "country_code",
                "country_name",
                "recipients",
                "segments",
                "cost_micros",
                "share_percent",
                "",
            ),
        )
        write("\n")
    totals: dict[str, object] = {
        "recipients": campaign.recipients,
        "segments": campaign.segments,
        "cost_micros": campaign.cost_micros,
        "refused_lines": campaign.refused_lines,
    }
    show(totals | _lines_of_cover(cover))
    if campaign.unpriced:
        write("\nwithout a price, and not in the total:\n")
        show(campaign.unpriced, columns=("country_code", "recipients", "segments"))
    if campaign.refused:
        write("\nrefused:\n")
        show(campaign.refused[:SHOWN_REFUSED])
    if campaign.refused_lines > SHOWN_REFUSED:
        more = counted(campaign.refused_lines - SHOWN_REFUSED, "more line")
        named = len(campaign.refused)
        first = f", which names the first {named:,}" if campaign.refused_lines > named else ""
        note(f"{more} refused: see --json{first}")


def _note_what_rows_leave_out(campaign: "Campaign", cover: "Cover | None") -> None:
    for country in campaign.unpriced:
        left_out = counted(country.recipients, "recipient")
        note(f"no price for {country.country_code}: {left_out} left out")
    if campaign.refused:
        first = campaign.refused[0]
        refused = counted(campaign.refused_lines, "line")
        note(f"{refused} refused, the first is line {first.line:,}: {first.reason}")
    if cover is not None and not cover.carried:
        missing = show_micros(cover.missing_micros)
        note(f"the balance of account {cover.account_id} lacks {missing} USD")


# --- both ---


def counted(number: int, noun: str) -> str:
    """Say how many of something there are."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _refuse_unpriced(countries: Sequence[str]) -> None:
    if countries:
        raise RefusedError(f"no price for {', '.join(countries)}", code=Code.UNPRICED)


def _cover(account_id: int | None, cost_micros: int) -> "Cover | None":
    if account_id is None:
        return None
    from tbpay.campaigns import cover

    return cover(account_id, cost_micros)


def _lines_of_cover(cover: "Cover | None") -> dict[str, object]:
    return {} if cover is None else in_one_amount(asdict(cover))
