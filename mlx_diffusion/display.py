"""Figures as people read them: sizes, and tables. Knows nothing of what they measure."""

from collections.abc import Sequence


def size_text(nbytes: float) -> str:
    """Bytes in GB, MB or kB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes / 1e3:.2f} kB"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of text in columns, the first aligned left and the others right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
