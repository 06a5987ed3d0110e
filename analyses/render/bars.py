"""Bars made of characters, told apart by shape where there is no colour."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from analyses.waste import SHARES, Share

#: How each share of what was sent is drawn: block character, ASCII character, colour.
_LOOK: dict[Share, tuple[str, str, str]] = {
    "needed": ("\u2588", "#", "green"),
    "superseded": ("\u2593", "s", "yellow"),
    "freed_later": ("\u2592", "l", "cyan"),
    "free": ("\u2591", "f", "bright_blue"),
    "redundant": ("\u25aa", "r", "magenta"),
    "undecided": ("?", "?", "dim"),
}
_WORDS: dict[Share, str] = {
    "needed": "needed",
    "superseded": "superseded (written again)",
    "freed_later": "freed later",
    "free": "free when sent",
    "redundant": "redundant (already there)",
    "undecided": "undecided",
}


def partition(parts: Sequence[int], scale: int, width: int, *, blocks: bool) -> Text:
    """Return a bar of the parts, in the order of SHARES; `scale` would fill `width` columns."""
    bar = Text()
    for share, columns in zip(SHARES, _columns(parts, scale, width), strict=True):
        look = _LOOK[share]
        bar.append(look[0 if blocks else 1] * columns, style=look[2])
    return bar


def legend(shares: Sequence[Share], *, blocks: bool) -> list[Text]:
    """Return one entry for each share that a bar may show."""
    entries = []
    for share in shares:
        look = _LOOK[share]
        sign = Text(look[0 if blocks else 1], style=look[2])
        entries.append(sign.append(f" {_WORDS[share]}", style="default"))
    return entries


def level(value: int, scale: int, width: int, *, blocks: bool, style: str) -> Text:
    """Return a bar of one value."""
    full = _columns([value], scale, width)[0]
    return Text((_LOOK["needed"][0] if blocks else "#") * full, style=style)


def _columns(parts: Sequence[int], scale: int, width: int) -> list[int]:
    """Share `width` columns out; what is there shows, and the whole is as long as it should be."""
    scale = max(scale, 1)
    ends, total = [], 0
    for part in parts:
        total += part
        ends.append((total * width * 2 + scale) // (2 * scale))
    columns = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    for i, part in enumerate(parts):
        if part and not columns[i]:
            longest = max(range(len(columns)), key=columns.__getitem__)
            columns[i] = 1
            columns[longest] -= columns[longest] > 1
    return columns
