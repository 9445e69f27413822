"""Constraints: the texts that they allow, token by token, as slow twins tell it; and what is refused, in one line."""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from functools import cache
from random import Random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import regex
from conftest import FIXTURES
from hypothesis import given, settings
from hypothesis import strategies as st
from schemas import schema

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.engine.choice import unpacked
from mlx_diffusion.errors import OptionError
from mlx_diffusion.structure.constraint import read_constraint
from mlx_diffusion.structure.following import follow
from mlx_diffusion.structure.guide import Guide, first_guide
from mlx_diffusion.structure.vocabulary import Vocabulary
from mlx_diffusion.structure.walking import walk
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer

STOPS = (1, 5)
PATTERNS = (
    "[a-z]{2,5}( [0-9]+)*",
    "(yes|no|maybe so)",
    "[^x]*end",
    r"\p{L}+ é{2}.?",
    "a?b?c?",
    r'"(\\["\\n]|[^"\\])*"',
)
FREE = {"additionalProperties": True, "type": "object"}


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(DEMO_FOLDER)


def guide(constraint: Any, prompt: tuple[int, ...] = (2,)) -> Guide:
    return first_guide(read_constraint(constraint), tokenizer(), 1024, STOPS, prompt)


def tokens_in(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


@given(st.sampled_from(PATTERNS), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_masks_are_what_the_text_of_the_tokens_says(pattern: str, rng: Random) -> None:
    """The twin decodes every continuation by our own tokenizer and asks another library whether it may go on so."""
    place, text = guide({"regex": pattern}), []
    for _ in range(rng.randint(0, 6)):
        text.append(rng.choice([token for token in tokens_in(place.allowed()) if token not in STOPS] or [0]))
        if not place.allows(text[-1]):
            return
        place.take(text[-1])
    allowed = set(tokens_in(place.allowed()))
    whole = tokenizer().decode(text)
    if not place.forced and "\N{REPLACEMENT CHARACTER}" not in whole:
        assert (STOPS[0] in allowed) == bool(regex.fullmatch(pattern, whole))
        for token in range(6, 1024):
            written = tokenizer().decode([*text, token])
            if "\N{REPLACEMENT CHARACTER}" in written:
                continue  # part of a character: the matcher's own business, until it is whole
            may = not Vocabulary.of(tokenizer()).tokens.is_special_token(token)
            may = may and regex.fullmatch(pattern, written, partial=True) is not None
            assert (token in allowed) == may, (written, token)


def test_every_token_has_the_bytes_that_the_tokenizer_writes() -> None:
    vocabulary = Vocabulary.of(tokenizer())
    for token in range(1024):
        if vocabulary.tokens.is_special_token(token):
            continue
        own = bytes(vocabulary.letters_of(token))
        assert tokenizer().is_byte(token) or own.decode() == tokenizer().decode([token])
        assert bytes(letter for one in vocabulary.tokens_of(own) for letter in vocabulary.letters_of(one)) == own


def shortest(pattern: str, alphabet: str) -> int:
    """The plain twin: all texts in order of their length."""
    queue = deque([""])
    while True:
        text = queue.popleft()
        if regex.fullmatch(pattern, text):
            return len(text)
        queue += [text + letter for letter in alphabet if regex.fullmatch(pattern, text + letter, partial=True)]


@pytest.mark.parametrize(
    "pattern", ["(ab)*c", "a{3}|b{2}c", "[^q]*zed", "(a|b)*abb", "x?y{2,3}(z|xy)", r"\(\(a\)|b", "a+b+c+"]
)
def test_the_shortest_ending_is_as_short_as_all_texts_tell(pattern: str) -> None:
    place = guide({"regex": pattern})
    place.fits(0)
    ending = place.ending()
    assert ending is not None
    text = tokenizer().decode(ending)
    assert regex.fullmatch(pattern, text) and len(text) == shortest(pattern, "abcxyzed(),")


@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_a_text_can_be_ended_at_every_place_within_its_room(seed: int, rng: Random) -> None:
    wanted = schema(Random(seed))
    place = guide({"json_schema": wanted})
    room = len(place.ending() or ()) + rng.randint(0, 30)
    written: list[int] = []
    for _ in range(room + 1):
        allowed = tokens_in(place.allowed())
        final = follow(place, [rng.choice(allowed)], room - len(written))
        assert final.guide is not None
        place = final.guide
        written += final.tokens
        assert len(written) <= room
        if final.end is not None:
            break
    assert final.end is not None or len(written) == room
    json.loads(tokenizer().decode([token for token in written if token not in STOPS]))


def test_bits_are_unpacked_in_order() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, (3, 4), dtype=np.uint32)
    expected = np.unpackbits(bits.view(np.uint8), bitorder="little").reshape(3, 128).astype(bool)[:, :100]
    assert np.array_equal(np.array(unpacked(mx.array(bits), 100)), expected)


def test_a_thought_comes_first_where_the_prompt_asks_for_one() -> None:
    opens, closes, thinks = 7, 8, 6
    place = guide({"choice": ["yes", "no"]}, (2, thinks))
    assert place.allows(opens) and place.allows(tokenizer().encode("no", False)[0])
    place.take(opens)
    assert place.allows(300) and place.allows(closes) and not any(map(place.allows, (*STOPS, opens, thinks)))
    assert place.ending() is not None and (place.ending() or [0])[0] == closes
    place.take(300)
    place.take(closes)
    assert not place.allows(opens) and not place.allows(300)
    assert guide({"choice": ["yes"]}, (2, opens)).phase == "thinks"
    assert not guide({"choice": ["yes"]}).allows(opens)


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        found = {"type": "array", "items": found}
    return found


def doubled(depth: int) -> dict[str, Any]:
    pairs = {f"d{n}": {"properties": {side: {"$ref": f"#/$defs/d{n + 1}"} for side in "ab"}} for n in range(depth)}
    return {"$ref": "#/$defs/d0", "$defs": {**pairs, f"d{depth}": {"pattern": "x"}}}


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        ("x", "it must be a dict"),
        ({}, "one of the keys json_schema, json_object, regex, choice, grammar"),
        ({"regex": "a", "choice": ["a"]}, "has the keys ['choice', 'regex']"),
        ({"choice": []}, "at least one"),
        ({"choice": ["a", "b", "a"]}, "'a' twice"),
        ({"choice": ["a", ""]}, "at least one character"),
        ({"choice": "ab"}, "a list of strings"),
        ({"json_object": False}, "must be True"),
        ({"json_schema": []}, "must be a dict"),
        ({"json_schema": {"enum": [{1}]}}, "is no JSON"),
        ({"json_schema": nested(1000)}, "levels deep"),
        ({"json_schema": {"properties": {"a": {"items": {"uniqueItems": True}}}}}, "a.items has the keyword 'uni"),
        ({"json_schema": {"anyOf": [{"not": {}}]}}, "json_schema.anyOf[0] has the keyword 'not'"),
        ({"json_schema": {"x-guidance": {"lenient": True}, "type": "string"}}, "'x-guidance'"),
        ({"json_schema": {**FREE, "minProperties": 2}}, "'minProperties'"),
        ({"json_schema": {"type": "frob"}}, "Invalid type: frob"),
        ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "minimum (5) is greater than maximum (3)"),
        ({"json_schema": {"oneOf": [{"type": "number"}, {"type": "integer"}]}}, "oneOf"),
        ({"json_schema": {"$ref": "#/$defs/a"}}, "cannot be held"),
        ({"json_schema": nested(150)}, "levels deep"),
        ({"json_schema": {"const": -(2**63)}}, "json_schema.const has the number -9223372036854775808"),
        ({"json_schema": {"enum": [{"a": [2**53 + 1]}]}}, "exact ones go from -2^53 to 2^53"),
        ({"json_schema": {"items": {"minimum": 10**400}}}, "json_schema.items.minimum has the number"),
        ({"json_schema": {"items": {"minimum": 10**400}}}, "000...000"),
        ({"json_schema": {"multipleOf": 999983}}, "999,983 remainders"),
        ({"json_schema": {"allOf": [{"multipleOf": 991}, {"multipleOf": 997}]}}, "with those beside it has 988,027"),
        ({"choice": ["x" * 10_000, "x" * 10_000]}, "xxx...xxx"),
        ({"json_schema": {"allOf": [{"items": {"pattern": "a" * n}} for n in range(1, 40)]}}, "asks 39 patterns"),
        ({"json_schema": {**doubled(40), "allOf": [{}]}}, "joins too many schemas"),
        ({"json_schema": {"const": ["a\x01b"]}}, "has the character '\\x01'"),
        ({"json_schema": {"properties": {"\x7f": {}}}}, "json_schema.properties has the character"),
        ({"json_schema": {"enum": ["\ud800"]}}, "has the character '\\ud800'"),
        ({"json_schema": {"pattern": "\ud800"}}, "cannot be read"),
        ({"grammar": 'start: %json {"const": -9223372036854775808}'}, "use json_schema"),
        ({"grammar": ' {"grammars": []}'}, "use json_schema"),
        ({"regex": "(" * 1000}, "…"),
        ({"regex": ""}, "at least one character"),
        ({"regex": "\\"}, "ends with a backslash"),
        ({"regex": "("}, "unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": "\ud800"}, "not valid Unicode"),
        ({"grammar": 'a: "b"'}, "no start rule"),
        ({"grammar": "root ::= ("}, "cannot be"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_refused_in_one_line(constraint: Any, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        guide(constraint)
    assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "constraint", [{"regex": r"[^\s\S]"}, {"grammar": 'start: "a" start'}, {"grammar": "start: /a/ s\ns: s s"}]
)
def test_what_no_text_matches_has_no_ending(constraint: Any) -> None:
    assert guide(constraint).ending() is None


@pytest.mark.parametrize(
    "pattern", ["(.*a){30}.{50}b", "((((a*)*)*)*)*b", "(a?){300}a{300}", "((a{1,99}){1,99}){1,99}"]
)
def test_expressions_that_explode_elsewhere_are_done_with(pattern: str) -> None:
    """Whatever is found: a search without bounds would not come back."""
    with suppress(OptionError):
        guide({"regex": pattern}).ending()


@pytest.mark.parametrize(
    ("constraint", "length"),
    [
        ({"json_schema": {**FREE, "properties": {f"p{n}": {"type": "integer"} for n in range(2000)}}}, 2),
        ({"json_schema": {"type": "array", "items": {"type": "integer"}, "minItems": 1500}}, 3001),
        ({"choice": [f"{n}{'ab' * 50_000}" for n in range(30)]}, 100_001),
        ({"choice": ["\x7f", "\x00\x1f"]}, 1),
        ({"regex": "[ab]{5000}"}, 5000),
    ],
)
def test_large_constraints_have_endings(constraint: Any, length: int) -> None:
    ending = guide(constraint).ending()
    assert ending is not None and len(tokenizer().decode(ending)) == length


def test_a_walk_repairs_with_the_likeliest_of_what_is_allowed() -> None:
    """What is likelier but not allowed never comes, and what is allowed stays as it was proposed."""
    letters = {letter: tokenizer().encode(letter, False)[0] for letter in "abcd"}
    logits = np.zeros((4, 1024), np.float32)
    for letter, likelihood in zip("abcd", (1, 2, 3, 4), strict=True):
        logits[:, letters[letter]] = likelihood
    proposed = [letters[letter] for letter in "dadd"]
    place = guide({"regex": "[ab]{2}[abc]d*"})
    walked = walk(place, proposed, lambda place: logits[place], repairs=4)
    assert (walked.tokens, walked.length, walked.repaired) == ([letters[letter] for letter in "bacd"], 4, 2)
    walked = walk(place, proposed, lambda place: logits[place], repairs=1)
    assert (walked.tokens, walked.length, walked.repaired) == ([letters[letter] for letter in "badd"], 2, 1)


def test_an_object_that_may_hold_its_like_has_an_ending() -> None:
    names = {"next": {"$ref": "#"}, "near": {"$ref": "#"}, "value": {"type": "integer"}}
    own = {"type": "object", "properties": names, "required": ["value"], "additionalProperties": False}
    place = guide({"json_schema": own})
    tokens = tokenizer().encode('{"next":{"near":{"next":{', False)
    assert place.advance(tokens) == len(tokens)
    assert place.fits(100)

    tree: dict[str, Any] = {"value": {"type": "integer"}, "left": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}
    tree = {"near": {"$ref": "#"}, **tree}
    both = {"type": "object", "properties": tree, "required": ["value", "left"], "additionalProperties": False}
    assert guide({"json_schema": both}).fits(60)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^[^\s@]+@[^\s@]+\.[a-z]{2,3}$",
        r"^https?://[^\s/]+/.*\.(png|jpg)$",
        r"^.*foo.*bar.*$",
        r"^(\+\d{1,2}\s)?\(?\d{3}\)?[\s.-]\d{3}[\s.-]\d{4}$",
        r"^(?P<major>\d+)\.(?:0|[1-9]\d*)(-[a-z]+)?$",
        r"^[A-Za-z0-9+/]{40,}={0,2}$",
    ],
)
def test_usual_patterns_have_endings(pattern: str) -> None:
    ending = guide({"json_schema": {"type": "string", "pattern": pattern}}).ending()
    assert ending is not None and regex.search(pattern, json.loads(tokenizer().decode(ending)))


@pytest.mark.parametrize(("excluded", "other"), [("exclusiveMinimum", "maximum"), ("exclusiveMaximum", "minimum")])
@pytest.mark.parametrize("far", [0.1, 0.5, 1, 20])
def test_an_excluded_zero_is_no_number(excluded: str, other: str, far: float) -> None:
    sign = 1 if other == "maximum" else -1
    own = {"type": "number", excluded: 0, other: sign * far}
    for text in ("0", "-0", "0.0", "-0.0", f"{sign * 0.05}", f"{sign * 30}"):
        tokens = [*tokenizer().encode(text, False), STOPS[0]]
        holds = 0 < sign * float(text) <= far
        for kind, wanted in (
            ("json_schema", own),
            ("tools", [{"name": "f", "parameters": {"properties": {"n": own}}}]),
        ):
            if kind == "tools":
                call = f"<|tool_call>call:f{{n:{text}}}<tool_call|>"
                tokens = [*tokenizer().encode(call, False), STOPS[0]]
            assert (guide({kind: wanted}).advance(tokens) == len(tokens)) == holds, (kind, text)


def test_as_many_choices_as_may_be_have_an_ending() -> None:
    assert guide({"choice": [f"{number:04}" for number in range(10_000)]}).ending() is not None


def test_a_name_cannot_be_spelt_in_another_way() -> None:
    """`"\\u0061"` is the name "a": one that is declared as an integer must not come back as what any other may be."""
    own = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    for text, holds in (('{"a":"x"}', False), ('{"\\u0061":"x"}', False), ('{"a":1,"b":"x"}', True)):
        place = guide({"json_schema": own})
        assert all(place.allows(token) and place.take(token) for token in tokenizer().encode(text, False)) == holds


ATOMS = ['[^"]', r"[^\\]", r"[^\"\n]", r"[\x00-\x1f]", r"[\x00-#]", r"\P{P}", "[^[]", "[a&&b]", "[+--]", "[!-~]", "."]


@given(st.lists(st.sampled_from(ATOMS), min_size=1, max_size=2), st.data())
def test_a_pattern_allows_the_strings_that_it_matches(atoms: list[str], data: st.DataObject) -> None:
    """The twin is another library, which asks the string and not the text that spells it."""
    pattern, letters = "".join(atoms), st.sampled_from('"\\\n\tab&+,-[]é~')
    string = data.draw(st.text(letters, min_size=len(atoms), max_size=len(atoms)))
    place = guide({"json_schema": {"type": "string", "pattern": f"^{pattern}$"}})
    tokens = [*tokenizer().encode(json.dumps(string, ensure_ascii=False), False), STOPS[0]]
    assert (place.advance(tokens) == len(tokens)) == bool(regex.fullmatch(pattern, string, regex.V0))


@pytest.mark.parametrize("kind", ["date", "date-time"])
@pytest.mark.parametrize("day", ["2023-02-28", "2023-02-29", "2024-02-29", "1900-02-29", "2000-02-29", "2023-12-31"])
def test_a_leap_day_is_one_of_a_leap_year(kind: str, day: str) -> None:
    place = guide({"json_schema": {"type": "string", "format": kind}})
    text = json.dumps(day if kind == "date" else f"{day}T12:00:00Z")
    holds = not day.endswith("02-29") or day in ("2024-02-29", "2000-02-29")
    tokens = [*tokenizer().encode(text, False), STOPS[0]]
    assert (place.advance(tokens) == len(tokens)) == holds


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    with pytest.raises(OptionError, match="llguidance cannot read this checkpoint's tokenizer"):
        Vocabulary.of(load_tokenizer(FIXTURES / "hub"))
