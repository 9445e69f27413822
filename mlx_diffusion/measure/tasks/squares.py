"""4×4 Latin squares and Sudoku: every cell depends on others, and more than one answer may be right.

The prompt of a Latin square gives four digits. Training never sees the held-out sets of digits, and of the 576 right
answers it only sees the four reduced ones, whose first row and first column have the digits in the order of the prompt.
The prompt of a Sudoku gives its clues, with 0 for an empty cell; several solutions may fit them. Training never sees
the held-out solutions, whatever the clues.
"""

from collections.abc import Sequence
from functools import cache
from itertools import permutations
from random import Random

from mlx_diffusion.measure.tasks.task import Task, ask

SIZE = 4
Square = tuple[tuple[int, ...], ...]


@cache
def latin_squares() -> tuple[Square, ...]:
    """All 576 Latin squares of order 4 over 0 … 3."""
    rows = tuple(permutations(range(SIZE)))
    squares: list[Square] = [()]
    for _ in range(SIZE):
        squares = [
            (*square, row)
            for square in squares
            for row in rows
            if all(above[c] != row[c] for above in square for c in range(SIZE))
        ]
    return tuple(squares)


@cache
def reduced_squares() -> tuple[Square, ...]:
    """The 4 Latin squares whose first row and first column are in order."""
    in_order = tuple(range(SIZE))
    return tuple(square for square in latin_squares() if square[0] == tuple(row[0] for row in square) == in_order)


@cache
def sudoku_squares() -> tuple[Square, ...]:
    """The 288 Latin squares whose four 2×2 boxes hold each symbol once, too."""
    corners = [(r, c) for r in (0, 2) for c in (0, 2)]
    return tuple(
        square
        for square in latin_squares()
        if all(len({square[r + i][c + j] for i in (0, 1) for j in (0, 1)}) == SIZE for r, c in corners)
    )


@cache
def _sets() -> tuple[frozenset[Square], frozenset[Square]]:
    """All Latin and all Sudoku squares, for who asks whether one is among them."""
    return frozenset(latin_squares()), frozenset(sudoku_squares())


def _as_square(text: str, symbols: Sequence[str]) -> Square | None:
    """The square that `text` writes, cells with or without spaces between; None if it is not 4×4 of the symbols."""
    index = {symbol: i for i, symbol in enumerate(symbols)}
    rows = [line.split() if " " in line else list(line) for line in text.splitlines()]
    if len(rows) != SIZE or any(len(row) != SIZE or any(cell not in index for cell in row) for row in rows):
        return None
    return tuple(tuple(index[cell] for cell in row) for row in rows)


def latin(rng: Random) -> Task:
    digits = rng.sample("0123456789", SIZE)
    square = rng.choice(reduced_squares())
    answer = "\n".join("".join(digits[cell] for cell in row) for row in square)
    key = "".join(sorted(digits))
    right, _ = _sets()
    return ask("latin", f"Latin square: {''.join(digits)}", answer, key, lambda text: _as_square(text, digits) in right)


def sudoku(rng: Random) -> Task:
    square = rng.choice(sudoku_squares())
    _, right = _sets()
    clues = set(rng.sample(range(SIZE * SIZE), rng.randint(6, 10)))
    digits = "1234"

    def write(shown: set[int]) -> str:
        return "\n".join(
            "".join(digits[square[r][c]] if SIZE * r + c in shown else "0" for c in range(SIZE)) for r in range(SIZE)
        )

    def check(text: str) -> bool:
        got = _as_square(text, digits)
        return got in right and all(got[i // SIZE][i % SIZE] == square[i // SIZE][i % SIZE] for i in clues)

    answer = write(set(range(SIZE * SIZE)))
    return ask("sudoku", f"Sudoku:\n{write(clues)}", answer, answer, check)
