"""A small Python function from its docstring, whole or with its middle missing."""

from random import Random

from mlx_diffusion.measure.tasks.task import Task, ask

_NAMES = tuple("a b n x y z".split())
_OPERATORS = {"plus": "+", "minus": "-", "times": "*"}


def _function(rng: Random) -> tuple[str, str, str, str]:
    """(docstring, signature, first statement or "", return statement) of a random small function."""
    x, y = rng.sample(_NAMES, 2)
    number, other = rng.randint(2, 99), rng.randint(2, 99)
    word, second = rng.sample(sorted(_OPERATORS), 2)
    match rng.randrange(5):
        case 0:
            return (f"{x} {word} {number}", f"def f({x}):", "", f"return {x} {_OPERATORS[word]} {number}")
        case 1:
            return (
                f"{x} {word} {number}, then {second} {y}",
                f"def f({x}, {y}):",
                f"t = {x} {_OPERATORS[word]} {number}",
                f"return t {_OPERATORS[second]} {y}",
            )
        case 2:
            return (
                f"{x} {word} {number}, then {second} {other}",
                f"def f({x}):",
                f"t = {x} {_OPERATORS[word]} {number}",
                f"return t {_OPERATORS[second]} {other}",
            )
        case 3:
            largest = rng.choice(("larger", "smaller"))
            call = "max" if largest == "larger" else "min"
            return (f"the {largest} of {x} and {number}", f"def f({x}):", "", f"return {call}({x}, {number})")
        case _:
            order, sign = rng.choice((("less", "<"), ("more", ">")))
            return (f"whether {x} is {order} than {number}", f"def f({x}):", "", f"return {x} {sign} {number}")


def python(rng: Random) -> Task:
    doc, signature, middle, end = _function(rng)
    body = "\n    ".join(filter(None, (signature, middle, end)))
    return ask("python", f'Python: """Return {doc}."""', body, doc)


def python_middle(rng: Random) -> Task:
    doc, signature, middle, end = _function(rng)
    lines = [signature, "    ___", *([f"    {end}"] if middle else [])]
    answer = middle or end
    prompt = f'Fill in: """Return {doc}."""\n' + "\n".join(lines)
    return ask("python_middle", prompt, answer, doc)
