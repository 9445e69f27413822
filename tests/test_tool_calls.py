"""Calls of tools held to the declared parameters: what is written is read as a call, and keeps to its schema."""

from __future__ import annotations

import json
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schemas import schema

from mlx_diffusion import OptionError, generate
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.cli.main import main
from mlx_diffusion.loading import load
from mlx_diffusion.modes import CAUSAL, MODES, Mode
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.serving.turns import ToolCall, read_calls
from mlx_diffusion.structure.constraint import read_constraint
from mlx_diffusion.structure.following import follow
from mlx_diffusion.structure.guide import Guide, first_guide
from mlx_diffusion.tokenizer import Tokenizer, load_tokenizer

STOPS = (1, 5)
CITY = {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 14}}
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/tree"}},
    "required": ["value"],
}

DEFS: dict[str, Any] = {"$defs": {"tree": TREE}}


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(DEMO_FOLDER)


def tool(name: str, parameters: Any = None) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def of(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def guide(*tools: dict[str, Any], **more: Any) -> Guide:
    return first_guide(read_constraint({"tools": tools, **more}), tokenizer(), 1024, STOPS, (2,))


def accepts(text: str, *tools: dict[str, Any], **more: Any) -> bool:
    tokens = [*tokenizer().encode(text, False), STOPS[0]]
    return guide(*tools, **more).advance(tokens) == len(tokens)


def called(arguments: str, name: str = "f") -> str:
    return f"<|tool_call>call:{name}{{{arguments}}}<tool_call|>"


def check(value: Any, own: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(own).validate(value)


def calls_in(text: str) -> list[ToolCall]:
    """The calls in a text; what stands around them has no marker."""
    found = []
    for part in text.split("<|tool_call>")[1:]:
        call, end, prose = part.partition("<tool_call|>")
        found += read_calls(f"<|tool_call>{call}{end}")
        assert end and "<|" not in prose
    assert len(found) == text.count("<|tool_call>")
    return found


@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_every_call_is_one_of_a_declared_tool_and_keeps_to_its_schema(seed: int, rng: Random) -> None:
    drawn = Random(seed)
    properties = {name: schema(drawn, 2) for name in drawn.sample(("a", "b-c", "Größe", "x y", "z"), 3)}
    tools = {
        "f": of(properties, *drawn.sample(list(properties), 2)),
        "g_1": of({"n": {"$ref": "#/$defs/tree"}}, **DEFS),
    }
    choice = drawn.choice(("required", "f", "g_1"))
    try:
        place = guide(*(tool(name, own) for name, own in tools.items()), choice=choice)
    except OptionError as error:
        assert "not supported" in str(error) or "oneOf" in str(error)
        return
    room = len(place.ending() or ()) + rng.randint(0, 40)
    written: list[int] = []
    while True:
        final = follow(place, [rng.choice(tokens_in(place))], room - len(written))
        assert final.guide is not None
        place, written = final.guide, [*written, *final.tokens]
        if final.end is not None or len(written) >= room:
            break
    calls = calls_in(tokenizer().decode([token for token in written if token not in STOPS]))
    assert len(written) <= room and calls and (choice == "required" or len(calls) == 1)
    for call in calls:
        assert choice in ("required", call.name)
        check(call.arguments, tools[call.name])


def tokens_in(place: Guide) -> list[int]:
    return [token for token in range(1024) if place.allows(token)]


@pytest.mark.parametrize(
    ("parameters", "arguments", "holds"),
    [
        (of(CITY, "city"), 'city:<|"|>Köln, "am" Rhein\n{}<|"|>,days:3', True),
        (of(CITY, "city"), 'city:<|"|><|"|>', True),
        (of(CITY, "city"), "days:3", False),
        (of(CITY, "city"), 'city:<|"|>Rome<|"|>,days:15', False),
        (of(CITY, "city"), 'city:<|"|>Rome<|"|>,country:<|"|>it<|"|>', False),
        (of(CITY, "city", additionalProperties=True), 'city:<|"|>Rome<|"|>,country:[1,null,{a:true}]', True),
        (of(CITY, "city", additionalProperties=True), 'city:<|"|>Rome<|"|>,days:<|"|>x<|"|>', False),
        (of({"f-1": {"enum": ["a b", 2, None]}}), '<|"|>f-1<|"|>:<|"|>a b<|"|>', True),
        (of({"f-1": {"enum": ["a b", 2, None]}}), '<|"|>f-1<|"|>:null', True),
        (of({"p": {"type": "string", "pattern": "^/[a-z]+|x$", "maxLength": 4}}), 'p:<|"|>/usr<|"|>', True),
        (of({"p": {"type": "string", "pattern": "^/[a-z]+|x$", "maxLength": 4}}), 'p:<|"|>y/x<|"|>', True),
        (of({"p": {"type": "string", "pattern": "^/[a-z]+|x$", "maxLength": 4}}), 'p:<|"|>y/z<|"|>', False),
        (of({"p": {"type": "string", "pattern": "^/[a-z]+|x$", "maxLength": 4}}), 'p:<|"|>/user<|"|>', False),
        (of({"l": {"prefixItems": [{"const": 1}], "items": {"type": "boolean"}, "type": "array"}}), "l:[1,true]", True),
        (of({"l": {"items": {"type": "number"}, "type": "array", "minItems": 2}}), "l:[1.5]", False),
        (of({"d": {"type": "string", "format": "date"}}), 'd:<|"|>2023-02-29<|"|>', False),
        (of({"t": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}}, **DEFS), "t:null", True),
        (None, "", True),
        (of({"n": {"type": "number"}}), "n:-1.5e10", True),
        (of({"n": {"type": "number"}}), "n:1e1000", False),
        (None, "a:1", False),
    ],
)  # fmt: skip
def test_arguments_are_spelt_as_the_template_spells_them(parameters: Any, arguments: str, holds: bool) -> None:
    assert accepts(called(arguments), tool("f", parameters), choice="f") == holds


def test_prose_and_calls_stand_as_the_choice_says() -> None:
    tools, call = (tool("f"), tool("f2")), called("")
    for choice, text, holds in (
        ("auto", "Nothing to call: {} <call:f>", True),
        ("auto", f"I look.{call}And again.{called('', 'f2')}", True),
        ("auto", f"I look.{called('', 'g')}", False),
        ("auto", call.removesuffix("<tool_call|>"), False),
        ("required", call + called("", "f2"), True),
        ("required", f"I look.{call}", False),
        ("f", call, True),
        ("f", call + call, False),
        ("f", called("", "f2"), False),
    ):
        assert accepts(text, *tools, choice=choice) == holds, (choice, text)
    assert not accepts(call + call, *tools, parallel=False)


@cache
def loaded() -> tuple[DiffusionGemma, Tokenizer]:
    return load(DEMO_FOLDER)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_calls_what_is_declared(mode: Mode) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
    tools = [tool("get_weather", of(CITY, "city", "days")), tool("stop")]
    for choice, most in (("get_weather", 60), ("get_weather", 24), ("required", 16), ("auto", 40)):
        wanted: dict[str, Any] = {"tools": tools, "choice": choice}
        few: dict[str, Any] = {} if mode in CAUSAL else {"max_denoising_steps": 3, "canvas_length": 32}
        text = generate(*loaded(), messages, tools=tools, constraint=wanted, mode=mode, max_tokens=most, **few)
        for call in calls_in(text):
            parameters = {one["function"]["name"]: one["function"]["parameters"] for one in tools}[call.name]
            check(call.arguments, of(CITY, "city", "days") if parameters else {"maxProperties": 0})
        assert choice == "auto" or text.startswith("<|tool_call>")


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        ({"tools": []}, "no tool"),
        ({"tools": {}}, "pass a list"),
        ({"tools": [{"name": ""}]}, "has no name"),
        ({"tools": [tool("a.b")]}, "the name 'a.b'"),
        ({"tools": [tool("f"), tool("f")]}, "'f' twice"),
        ({"tools": [tool("f")], "choice": "g"}, "one of auto, required, f"),
        ({"tools": [tool("f")], "choice": ["f"]}, "one of auto, required, f"),
        ({"tools": [tool("f")], "parallel": 2}, "parallel is 2"),
        ({"tools": [tool("f")], "json_object": True}, "the key 'json_object'"),
        ({"tools": [tool("f", of({"a": {"not": {}}}))]}, "tools.f.parameters.properties.a has the keyword 'not'"),
        ({"tools": [tool("f", of({"a": {"minProperties": 1}}))]}, "a has the keyword 'minProperties'"),
        ({"tools": [tool("f", of({"a": {"format": "iri"}}))]}, "iri"),
        ({"tools": [tool("f", of({"a": {"const": 'x<|"|>'}}))]}, "which a call cannot spell"),
        ({"tools": [tool("f", of({"a": {"$ref": "#/$defs/b"}}))]}, "/$defs/b"),
        ({"tools": [tool("f", of({"a": 5}))]}, "must be an object or boolean"),
        ({"tools": [tool("f", {"type": "array"})]}, "arguments are an object"),
        ({"tools": [tool("f", of({"a": {"anyOf": [{}], "type": "string"}}))]}, "'anyOf' beside 'type'"),
        ({"tools": [tool("f", of({"a": {"oneOf": [{"type": "number"}, {"type": "integer"}]}}))]}, "oneOf"),
    ],
)  # fmt: skip
def test_tools_that_cannot_be_held_are_refused_in_one_line(constraint: Any, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_constraint(constraint)
    assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_the_command_calls_a_tool_by_name(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([tool("get_weather", of(CITY, "city"))]))
    prompt = ["What is the weather in Rome?", "--mode", "autoregressive"]
    assert main(["generate", "--tools", str(file), "--tool-choice", "get_weather", *prompt]) == 0
    [call] = calls_in(capsys.readouterr().out.strip())
    assert call.name == "get_weather" and isinstance(call.arguments["city"], str)
    assert main(["generate", "--tool-choice", "required", *prompt]) in (1, 2)
    assert "declare them with --tools" in capsys.readouterr().err
