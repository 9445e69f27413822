"""Constrained texts are valid, whatever the model wants, in every mode; `STRUCTURE_EXAMPLES=200` tries many more."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import regex
from conftest import narrow_toy
from schemas import recursive, schema

from mlx_diffusion import OptionError, PrefixStore, generate, stream_generate
from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.cli.main import main
from mlx_diffusion.engine.engine import run
from mlx_diffusion.engine.guides import guide_of
from mlx_diffusion.engine.noise import SeededDraws
from mlx_diffusion.engine.request import Request
from mlx_diffusion.events import Event, Finish, Segment
from mlx_diffusion.loading import load
from mlx_diffusion.modes import CAUSAL, Mode
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import GenerationConfig
from mlx_diffusion.structure.constraint import Constraint, read_constraint
from mlx_diffusion.structure.guide import Guide, first_guide
from mlx_diffusion.tokenizer import Tokenizer

EXAMPLES = int(os.environ.get("STRUCTURE_EXAMPLES", "6"))  # schemas of each checkpoint and mode
MODES: tuple[Mode, ...] = ("reference", "fast", *CAUSAL)
RECORD = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
CHAT = [{"role": "user", "content": "As JSON: Bob is 12 and lives in Paris."}]


@cache
def loaded(checkpoint: str) -> tuple[DiffusionGemma, Tokenizer]:
    """The bundled checkpoint, or a small one of its vocabulary with weights that know nothing."""
    return load(DEMO_FOLDER) if checkpoint == "demo" else narrow_toy()


@pytest.fixture(scope="module", autouse=True)
def constraints_are_read_once() -> Iterator[None]:
    """The modes are held to the same ones, and each has its shortest text looked for."""
    known: dict[Any, Guide] = {}

    def read(constraint: Constraint, tokenizer: Tokenizer, *others: Any) -> Guide:
        key = (constraint.grammar, *map(str, others))
        if key not in known:
            known[key] = first_guide(constraint, tokenizer, *others)
            known[key].ending()
        return known[key].copied()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_diffusion.engine.guides.first_guide", read)
        yield


def write(checkpoint: str, prompt: Any, **options: Any) -> tuple[list[int], str, Finish, list[Event]]:
    events = list(stream_generate(*loaded(checkpoint), prompt, **options))
    tokens = [token for event in events if isinstance(event, Segment) for token in event.tokens]
    assert isinstance(events[-1], Finish)
    return tokens, "".join(event.text for event in events), events[-1], events


def few_steps(mode: Mode) -> dict[str, Any]:
    """Text that nobody has learned to write takes all the steps that it may, on canvas after canvas."""
    return {} if mode in CAUSAL else {"max_denoising_steps": 3, "canvas_length": 32}


def write_together(
    checkpoint: str, wishes: Sequence[tuple[dict[str, Any], dict[str, Any]]]
) -> list[tuple[list[int], str, Finish] | str]:
    """Constraints and options as rows of one run: tokens, text and end, or why nothing of it can be written."""
    model, tokenizer = loaded(checkpoint)
    prompt, vocab = tuple(tokenizer.encode_prompt(CHAT, model.config.vocab_size)), model.config.vocab_size
    requests, refused = [], {}
    for number, (constraint, options) in enumerate(wishes):
        settings = model.generation_defaults.resolve(GenerationConfig().override(options))
        try:
            guide = guide_of(read_constraint(constraint), model, tokenizer, settings, prompt)
        except OptionError as error:
            refused[number] = str(error)
        else:
            requests.append(Request(prompt, settings, SeededDraws.of(settings.seed, vocab), guide=guide))
    written: list[tuple[list[int], str, Finish]] = []
    events = list(run(model, tokenizer, requests))
    for row in range(len(requests)):
        own = [event for event in events if event.row == row]
        tokens = [token for event in own if isinstance(event, Segment) for token in event.tokens]
        assert isinstance(own[-1], Finish)
        written.append((tokens, "".join(event.text for event in own), own[-1]))
    rows = iter(written)
    return [refused[number] if number in refused else next(rows) for number in range(len(wishes))]


def wanted(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema, and options of a run."""
    rng = Random(seed)
    own = recursive(rng) if seed % 10 == 0 else schema(rng)
    return own, {"max_tokens": rng.choice((40, 70)), "seed": seed}


def check(text: str, own: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(own).validate(json.loads(text))


@pytest.mark.parametrize("checkpoint", ["demo", "random"])
@pytest.mark.parametrize("mode", MODES)
def test_every_text_is_valid(checkpoint: str, mode: Mode) -> None:
    wishes = []
    for seed in range(EXAMPLES):
        own, options = wanted(seed)
        if mode in CAUSAL:
            options["temperature"] = Random(seed).choice((0, 1.0, 2.0))
        else:
            options |= {**few_steps(mode), "lock_threshold": Random(seed).choice((0.9, 1.0))}
        wishes.append(({"json_schema": own}, {"mode": mode, **options}))
    written = 0
    for (constraint, options), found in zip(wishes, write_together(checkpoint, wishes), strict=True):
        if isinstance(found, str):
            assert "the shortest text" in found
            continue
        written += 1
        tokens, text, finish = found
        check(text, constraint["json_schema"])
        assert finish.stats.generated_tokens == len(tokens) <= options["max_tokens"]
    assert written > EXAMPLES / 2


DRAFTED = [(seed, temperature) for seed in range(3) for temperature in (0.0, 1.5)]


@cache
def drafted() -> list[list[Any]]:
    """Texts of every mode, each for all of those seeds and temperatures."""
    wishes = []
    for mode in CAUSAL:
        for seed, temperature in DRAFTED:
            own, options = wanted(seed)
            wishes.append(({"json_schema": own}, {"mode": mode, "temperature": temperature, **options}))
    texts = [found[:2] for found in write_together("demo", wishes)]
    return [texts[: len(DRAFTED)], texts[len(DRAFTED) :]]


@pytest.mark.parametrize(("seed", "temperature"), DRAFTED)
def test_drafts_change_nothing_of_a_constrained_text(seed: int, temperature: float) -> None:
    plain, with_drafts = (texts[DRAFTED.index((seed, temperature))] for texts in drafted())
    assert plain == with_drafts


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        ({"regex": "[A-Z][a-z]{2,6}( [0-9]{2}){1,3}"}, "[A-Z][a-z]{2,6}( [0-9]{2}){1,3}"),
        ({"choice": ["yes", "no", "maybe so"]}, "yes|no|maybe so"),
        ({"grammar": 'start: "(" start ")" | /[0-9]/'}, r"\(*[0-9]\)*"),
        ({"grammar": 'root ::= "a" root | "b"'}, "a*b"),
    ],
)
def test_other_constraints_are_held(mode: Mode, constraint: dict[str, Any], pattern: str) -> None:
    for most in (10, 24):
        _, text, _, _ = write("random", CHAT, mode=mode, constraint=constraint, max_tokens=most, **few_steps(mode))
        assert regex.fullmatch(pattern, text), text


@pytest.mark.parametrize("mode", MODES)
def test_an_object_is_an_object(mode: Mode) -> None:
    options: dict[str, Any] = {"max_tokens": 50, **few_steps(mode)}
    text = write("random", CHAT, mode=mode, constraint={"json_object": True}, **options)[1]
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("mode", MODES)
def test_rows_have_constraints_of_their_own(mode: Mode) -> None:
    constraints: Sequence[dict[str, Any] | None] = [{"json_schema": RECORD}, None, {"choice": ["no", "never"]}]
    together = generate(
        *loaded("random"), [CHAT] * 3, mode=mode, constraint=constraints, max_tokens=40, **few_steps(mode)
    )
    alone = [
        generate(*loaded("random"), CHAT, mode=mode, constraint=own, max_tokens=40, **few_steps(mode))
        for own in constraints
    ]
    assert together == alone
    with pytest.raises(OptionError, match="a list of 2 for 3 prompts"):
        generate(*loaded("demo"), [CHAT] * 3, mode=mode, constraint=[None] * 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_prefix_store_changes_nothing_of_a_constrained_text(mode: Mode) -> None:
    model, tokenizer = loaded("random")
    store = PrefixStore(model, 50_000_000)
    options: dict[str, Any] = {"mode": mode, "constraint": {"json_schema": RECORD}, "max_tokens": 40, **few_steps(mode)}
    texts = [generate(model, tokenizer, CHAT, prefixes=store, **options) for _ in range(2)]
    assert texts == [generate(model, tokenizer, CHAT, **options)] * 2


def test_tokens_that_must_follow_take_no_pass() -> None:
    own: dict[str, Any] = {"type": "object", "properties": {"a_long_name_of_a_field": {"const": "and its only value"}}}
    own |= {"required": ["a_long_name_of_a_field"], "additionalProperties": False}
    _, text, finish, _ = write("demo", CHAT, mode="autoregressive", constraint={"json_schema": own})
    check(text, own)
    assert finish.stats.passes < finish.stats.generated_tokens / 2
    assert finish.finish_reason == "stop"


def test_likelihoods_are_those_of_what_may_follow() -> None:
    _, _, _, events = write("demo", CHAT, mode="autoregressive", constraint={"choice": ["yes", "no"]}, logprobs=5)
    found = [one for event in events if isinstance(event, Segment) for one in event.logprobs]
    tokens = [token for event in events if isinstance(event, Segment) for token in event.tokens]
    assert [one.token for one in found] == tokens
    assert all(-1e9 < likelihood <= 1e-6 for one in found for _, likelihood in one.top)
    assert found[-1].logprob == 0 and found[-1].top == ((tokens[-1], 0.0),)


@pytest.mark.parametrize("mode", MODES)
def test_a_thought_is_free_and_the_answer_behind_it_is_not(mode: Mode) -> None:
    prompt = [{"role": "user", "content": "Add: 27 + 15"}]
    options: dict[str, Any] = {"mode": mode, "enable_thinking": True, "constraint": {"regex": "answer: [0-9]{1,3}"}}
    for most in (100, 12):
        _, text, _, _ = write("demo", prompt, max_tokens=most, **options, **few_steps(mode))
        assert text.startswith("<|channel>thought\n")
        assert regex.fullmatch("answer: [0-9]{1,3}", text.split("<channel|>")[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_tokens": 10}, "the shortest text that constraint json_schema allows has [0-9]+ tokens, and 10 may"),
        ({"stop": "x"}, "stop strings would cut a constrained text"),
        ({"mode": "reference", "pinned": [5]}, "pinned tokens do not go with a constraint"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        stream_generate(
            *loaded("demo"), CHAT, **{"mode": "autoregressive", **options}, constraint={"json_schema": RECORD}
        )


def test_the_command_holds_an_answer_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema_file, grammar, missing = tmp_path / "record.json", tmp_path / "g.lark", tmp_path / "none"
    schema_file.write_text(json.dumps(RECORD))
    grammar.write_text('start: "yes" | "no"')
    prompt = [CHAT[0]["content"], "--mode", "autoregressive"]
    assert main(["generate", "--json-schema", str(schema_file), *prompt]) == 0
    check(capsys.readouterr().out, RECORD)
    assert main(["generate", "--grammar", str(grammar), *prompt]) == 0
    assert capsys.readouterr().out in ("yes\n", "no\n")
    for options, said in (
        (["--json-schema", str(missing)], f"{missing} cannot be read (No such file or directory)"),
        (["--json-schema", str(grammar)], f"{grammar} is not JSON"),
        (["--regex", "("], "constraint regex cannot be held"),
    ):
        assert main(["generate", *options, *prompt]) in (1, 2)
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_chat_holds_its_answers(capsys: pytest.CaptureFixture[str]) -> None:
    message = ["chat", "--no-save", "--mode", "autoregressive", "-m", "Is it so?"]
    assert main([*message, "--choice", "yes", "--choice", "no"]) == 0
    assert capsys.readouterr().out.strip() in ("yes", "no")
    assert main([*message, "--regex", "("]) in (1, 2)
    assert "constraint regex cannot be held" in capsys.readouterr().err.splitlines()[-1]
