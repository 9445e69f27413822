"""A suite of the user's own, read from a file with one JSON object a line.

    {"prompt": "What is 12 times 12?", "answer": "144"}
    {"prompt": "Name a primary colour.", "answer": ["red", "yellow", "blue"], "family": "colours"}
    {"prompt": "Write a date as YYYY-MM-DD.", "regex": "\\d{4}-\\d\\d-\\d\\d"}
    {"prompt": "Shuffle: a b c", "checker": "permutation", "items": ["a", "b", "c"]}

`prompt` is what the user says, or a list of messages. One of three fields says which answers are right: `answer` (the
whole answer, or a list of right ones), `regex` (which must match the whole answer) or `checker` (see `checkers`; its
arguments are further fields). `family` groups lines in the tables; without it the file's name does. No code of the file
is run. Knows nothing of models.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import EvaluationError, OptionError, PromptError
from mlx_diffusion.json_files import bounded_json
from mlx_diffusion.measure.answers.checkers import CHECKERS, cells
from mlx_diffusion.measure.answers.item import Item
from mlx_diffusion.measure.answers.patterns import TooSlow, compiled
from mlx_diffusion.messages import check_messages
from mlx_diffusion.regular_files import read_regular
from mlx_diffusion.typed_json import is_finite

CHECKS = ("answer", "regex", "checker")
SUFFIX = ".jsonl"
MOST_BYTES = 64_000_000  # of a file
LONGEST_FAMILY = 100  # characters


def read_suite(file: Path) -> dict[str, list[Item]]:
    """The file's prompts by family. Raises `EvaluationError`, which names the line."""
    try:
        content = read_regular(file, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise OptionError(f"--suite {file}: {error.strerror}; name a file that is there") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{file} is not text ({error}); save it as UTF-8") from None
    families: dict[str, list[Item]] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            item = _item(line, f"{file}, line {number}", file.stem)
            families.setdefault(item.family, []).append(item)
    if not families:
        raise EvaluationError(f"{file} has no prompts; write one JSON object a line")
    return families


def _item(line: str, where: str, family: str) -> Item:
    try:
        entry = bounded_json(line)
    except ValueError as error:
        raise EvaluationError(f"{where}: no JSON ({error})") from None
    if not isinstance(entry, dict):
        raise EvaluationError(f'{where}: no JSON object; write {{"prompt": ..., "answer": ...}}')
    messages = _messages(entry.pop("prompt", None), where)
    family = entry.pop("family", family)
    if not isinstance(family, str) or not (family.isprintable() and 0 < len(family) <= LONGEST_FAMILY):
        raise EvaluationError(
            f"{where}: family is {family!r}; it must be text of one line and at most {LONGEST_FAMILY} characters"
        )
    given = [name for name in CHECKS if name in entry]
    if len(given) != 1:
        has = " and ".join(given) if given else "none of them"
        raise EvaluationError(f"{where}: give one of {', '.join(CHECKS)}; the line has {has}")
    rule = dict(entry)
    value = entry.pop(given[0])
    check = _READERS[given[0]](value, entry, where)
    if entry:
        raise EvaluationError(f"{where}: unknown field {next(iter(entry))!r}")
    return Item(family, messages, check, rule=rule)


def _messages(prompt: object, where: str) -> tuple[dict[str, Any], ...]:
    if isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list):
        raise EvaluationError(
            f"{where}: prompt is {prompt!r}; it must be text, or a list of messages with role and content"
        )
    try:
        json.dumps(prompt, ensure_ascii=False).encode()
        check_messages(prompt)
    except PromptError as error:
        raise EvaluationError(f"{where}: prompt: {error}") from None
    except UnicodeEncodeError as error:
        raise EvaluationError(f"{where}: prompt is not valid Unicode text ({error.reason}); mend its escapes") from None
    return tuple(prompt)


def _answer(value: object, entry: dict[str, Any], where: str) -> Callable[[str], bool]:
    right = value if isinstance(value, list) else [value]
    if not right or not all(isinstance(answer, str) for answer in right):
        raise EvaluationError(f"{where}: answer is {value!r}; it must be text, or a list of texts")
    stripped = {str(answer).strip() for answer in right}
    return lambda text: text in stripped


def _regex(value: object, entry: dict[str, Any], where: str) -> Callable[[str], bool]:
    try:
        matches = compiled(value)
    except ValueError as error:
        raise EvaluationError(f"{where}: regex is no regular expression ({error})") from None

    def check(text: str) -> bool:
        try:
            return matches(text)
        except TooSlow as error:
            raise EvaluationError(f"{where}: regex {error}; write it without repeats of repeats") from None

    return check


def _checker(value: object, entry: dict[str, Any], where: str) -> Callable[[str], bool]:
    """The named checker with its arguments, which are taken out of the entry."""
    if not isinstance(value, str) or value not in CHECKERS:
        raise EvaluationError(f"{where}: unknown checker {value!r}; there are {', '.join(CHECKERS)}")
    check = CHECKERS[value]
    arguments = {}
    for name, parameter in list(inspect.signature(check, eval_str=True).parameters.items())[1:]:
        if name in entry:
            arguments[name] = entry.pop(name)
            _check_argument(name, arguments[name], parameter.annotation, f"{where}: {value}")
        elif parameter.default is parameter.empty:
            raise EvaluationError(f"{where}: checker {value} needs {name!r}")
    return lambda text: check(text, **arguments)


def _check_argument(name: str, value: object, kind: object, where: str) -> None:
    if kind is str and not isinstance(value, str):
        raise EvaluationError(f"{where}: {name} is {value!r}; it must be text")
    if kind is float and not is_finite(value):
        raise EvaluationError(f"{where}: {name} is {value!r}; it must be a finite number")
    if kind not in (str, float, Any):
        if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
            raise EvaluationError(f"{where}: {name} is {value!r}; it must be a list of texts")
        if name == "clues" and not (len(value) in (4, 9) and all(len(cells(row)) == len(value) for row in value)):
            raise EvaluationError(f"{where}: clues are {value!r}; they must be 4 rows of 4 cells or 9 of 9")


_READERS: Mapping[str, Callable[[object, dict[str, Any], str], Callable[[str], bool]]] = {
    "answer": _answer,
    "regex": _regex,
    "checker": _checker,
}
