"""Figures as people read them: sizes, times, shares, quantities, tables. Knows nothing of what they measure."""

from collections.abc import Mapping, Sequence


def size_text(nbytes: float) -> str:
    """Bytes in GB, MB or kB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes / 1e3:.2f} kB"


def quantity(value: float, unit: str = "") -> str:
    """Three digits with the prefix of their thousand: 1.23 GFLOP/s."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def count_of(number: float, noun: str) -> str:
    """A number of things: 1 block, 2,000 blocks, 3 passes, 2 families."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{number:,} {noun}es"
    return f"{number:,} {noun[:-1]}ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def left_text(seconds: float | None) -> str:
    """The time that is left, as far as it is known."""
    return f"{'?' if seconds is None else duration(seconds)} left"


def levers_text(levers: Mapping[str, float]) -> str:
    """The levers of a mode in a line."""
    return ", ".join(f"{name} {value:g}" for name, value in levers.items()) or "as reference"


def per_cent(share: float) -> str:
    """A share in per cent with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def interval(low: float, high: float) -> str:
    """An interval of shares in per cent: 12.3 to 45.6."""
    return f"{per_cent(low)} to {per_cent(high)}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool = False) -> str:
    """Rows of text under a header, as plain text or in Markdown; the first column to the left, the others to the right.

    Every row has as many cells as the header.
    """
    if markdown:
        rule = ["---", *["---:"] * (len(header) - 1)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        first, *others = row
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, [header, *rows]))
