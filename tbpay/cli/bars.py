"""Bars, which stand beside a number in a table and let the eye compare it with the others."""

BAR_WIDTH = 20


def bar(part: int, whole: int) -> str:
    """Draw a part of a whole; what is more than nothing is always seen."""
    # Plain signs, which every terminal can show: rounded half up, but never down to nothing.
    length = (2 * part * BAR_WIDTH + whole) // (2 * whole) if whole else 0
    return "#" * max(length, part > 0)
