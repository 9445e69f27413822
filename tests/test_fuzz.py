"""Files and values from other people's hands, made wrong: no traceback, no hang, nothing lost, one line each.

A few examples of each kind run with all tests. For a long run: FUZZ_EXAMPLES=400 python -m pytest tests/test_fuzz.py
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES, contents, write_source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import ODD, Change, changed_bytes, changed_header, changed_json, changes, json_text

from mlx_diffusion.cli.chat import archive
from mlx_diffusion.cli.chat.conversation import Conversation, ConversationError, Message
from mlx_diffusion.cli.main import main
from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.errors import DiffusionError, EvaluationError, OptionError, PromptError
from mlx_diffusion.generation import generate
from mlx_diffusion.loading import load
from mlx_diffusion.measure.answers.evaluation import Cell, Evaluation, PromptOutcome
from mlx_diffusion.measure.answers.journal import FinishedBatch, Journal
from mlx_diffusion.measure.answers.one_step_bound import FirstStep
from mlx_diffusion.measure.answers.suite_file import read_suite
from mlx_diffusion.options import NAMES, GenerationConfig

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
LONGEST = 60  # seconds, by which what hangs is known; nothing takes one
RECIPES = json.loads((Path(__file__).parent.parent / "docs" / "recipes.json").read_text())
few = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"no end after {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(*argv: str | Path) -> object:
    """Run the command: it ends by itself, and what it refuses it refuses in one line. Returns the exit code."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), in_time():
        try:
            code: object = main(list(map(str, argv)))
        except SystemExit as end:  # of wrong usage, which is shown behind the right one
            code = end.code
    lines = [line for line in err.getvalue().splitlines() if "MB/s" not in line and not line.startswith("usage: ")]
    assert code in (0, 1, 2) and "Traceback" not in err.getvalue()
    assert code == 0 or (len(lines) == 1 and lines[0].startswith("mlx-diffusion") and len(lines[0]) < 1100), lines
    return code


def refused(work: Callable[[], object], *errors: type[Exception]) -> bool:
    """Whether the work is refused, by one of the errors and in one line; any other error fails the test."""
    try:
        with in_time():
            work()
    except errors as error:
        assert str(error) and "\n" not in str(error)
        assert not isinstance(error, DiffusionError) or len(str(error)) <= 1000
        return True
    return False


# Of a checkpoint: the file, and how it is changed.

TEMPLATE_PARTS = [
    b"{{", b"}}", b"{%", b"%}", b"{% for a in range(99999999) %}", b"{% endfor %}", b"{{ messages * 9999999 }}",
    b"{{ ().__class__.__mro__ }}", b"{% include 'x' %}", b"{{ '%9999999d' % 1 }}", b"{% set x = x ~ x %}", b"loop",
    b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", b"{{ raise_exception('\n') }}", b"{{ 9 ** 9 ** 9 }}",
]  # fmt: skip


def of_json(content: bytes, wanted: Sequence[Change]) -> bytes:
    return json_text(changed_json(json.loads(content), wanted))


CHECKPOINT_FILES: dict[str, tuple[str, str, Callable[[bytes, Sequence[Change]], bytes]]] = {
    "weights": ("hub", "model.safetensors", changed_bytes),
    "header": ("hub", "model.safetensors", changed_header),
    "config": ("hub", "config.json", of_json),
    "config of Transformers": ("transformers", "config.json", of_json),
    "index": ("transformers", "model.safetensors.index.json", of_json),
    "generation config": ("hub", "generation_config.json", of_json),
    "tokenizer": ("hub", "tokenizer.json", of_json),
    "tokenizer bytes": ("hub", "tokenizer.json", changed_bytes),
    "tokenizer config": ("hub", "tokenizer_config.json", of_json),
    "template": ("hub", "chat_template.jinja", lambda old, wanted: changed_bytes(old, wanted, TEMPLATE_PARTS)),
}


@pytest.mark.parametrize("kind", CHECKPOINT_FILES)
@few
@given(wanted=changes())
def test_checkpoints(kind: str, wanted: list[Change], tmp_path_factory: pytest.TempPathFactory) -> None:
    source, name, change = CHECKPOINT_FILES[kind]
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(FIXTURES / source, folder)
    (folder / name).write_bytes(change((folder / name).read_bytes(), wanted))
    limits = ("--max-tokens", "2", "--max-denoising-steps", "1", "--t-max", "0.8", "--t-min", "0.4")
    command("generate", "--model", folder, *limits, "t20 t21")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("fuzz") / "source")


@few
@given(wanted=changes(), name=st.sampled_from(["conversion.json", "made_from.json"]), twice=st.booleans())
def test_records_of_conversions(source: Path, wanted: list[Change], name: str, twice: bool) -> None:
    target = source.parent / "target"
    shutil.rmtree(target, ignore_errors=True)
    if not (source.parent / "whole").exists():
        assert command("convert", source, source.parent / "whole") == 0
    shutil.copytree(source.parent / "whole", target)
    (target / "notes.txt").write_text("mine")
    made = json.loads((target / "made_from.json").read_text())
    record = {"contents": "a", "formats": "b", "mlx_diffusion": "0", "mlx": "0", "command": "mlx-diffusion convert a b"}
    before = {key: made[key] for key in ("source", "revision", "recipe", "sources")} | record
    (target / name).write_bytes(json_text(changed_json(made if name == "made_from.json" else before, wanted)))
    kept = contents(target)
    code = command("convert", source, target, *(["--verify"] if twice and name == "made_from.json" else []))
    assert code == 0 or contents(target) == kept, "what is refused is left as it was"


SUITE = [
    {"prompt": "p", "answer": ["144", "a"], "family": "f"},
    {"prompt": [{"role": "user", "content": "p"}], "regex": r"(?:\d+ ?)+x"},
    {"prompt": "p", "checker": "number", "value": 12.5, "tolerance": 1},
    {"prompt": "p", "checker": "json", "value": {"a": [1]}},
    {"prompt": "p", "checker": "sudoku", "clues": ["1000", "0012", "2043", "0000"]},
    {"prompt": "p", "checker": "replacement", "items": ["a", "b"], "item": "x"},
]
ANSWERS = ["144", "1234\n3412\n2143\n4321", "9" * 500, "[" * 3000, "a x", "1e999", "", "\ud800", "1 " * 40 + "y"]


@few
@given(wanted=changes(), line=st.integers(0, len(SUITE) - 1), raw=st.booleans())
def test_suites(wanted: list[Change], line: int, raw: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    text = json_text(SUITE[line])
    file.write_bytes(changed_bytes(text, wanted) if raw else of_json(text, wanted))

    def read() -> None:
        for items in read_suite(file).values():
            assert all(isinstance(item.is_right(answer), bool) for item in items for answer in ANSWERS)

    refused(read, EvaluationError, OptionError)


def evaluation() -> Evaluation:
    outcomes = (PromptOutcome(True, 4, 1, 0, 8, "fig"), PromptOutcome(False, 6, 2, 1, 9, "oak"))
    ways = [{"label": f"w{n}", "mode": "reference", "options": {"t_min": n / 4}} for n in range(2)]
    plan = {"ways": ways, "families": {"copy": {"prompts": 2, "digest": "d"}}, "seed": 0, "max_tokens": 8}
    header = {"model": "m", "checkpoint": "c", "canvas_length": 64, "device": "cpu", "plan": plan | {"batch_size": 1}}
    cells = {(way, "copy"): Cell(outcomes, 1.5) for way in range(2)}
    return Evaluation(header, cells, (FirstStep(3, True, False),))


@few
@given(wanted=changes(), how=st.sampled_from(["show", "json", "markdown", "compare", "recipes", "recipes page"]))
def test_results(wanted: list[Change], how: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole, file = (tmp_path_factory.getbasetemp() / name for name in ("whole.json", "fuzzed.json"))
    whole.write_text(evaluation().to_json(answers=True))
    valid = RECIPES if how.startswith("recipes") else json.loads(whole.read_text())
    file.write_bytes(json_text(changed_json(valid, wanted)))
    page = ("--markdown", file.with_suffix(".md")) if how in ("markdown", "recipes page") else ()
    argv = ("--compare", whole, file) if how == "compare" else ("--show", file, *page)
    command("eval", *argv, *(["--json"] if how == "json" else []))


@few
@given(wanted=changes(), raw=st.booleans())
def test_journals(wanted: list[Change], raw: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    header = evaluation().header
    file = tmp_path_factory.getbasetemp() / "fuzzed.part"
    file.unlink(missing_ok=True)
    journal = Journal(file, header)
    journal.add(FinishedBatch(0, "copy", 0, 1.5, (PromptOutcome(True, 4, 1, 0, 8, "fig"),)))
    journal.add_first_step(0, FirstStep(3, True, False))
    journal.close()
    lines = file.read_bytes().splitlines()
    changed = changed_json({str(number): json.loads(line) for number, line in enumerate(lines)}, wanted)
    parts = [json_text(part) + b"\n" for part in (changed.values() if isinstance(changed, dict) else [changed])]
    file.write_bytes(changed_bytes(file.read_bytes(), wanted) if raw else b"".join(parts))
    before = file.read_bytes()
    if refused(lambda: Journal(file, header).close(), EvaluationError):
        assert file.read_bytes() == before
    else:
        assert file.read_bytes().startswith(before[: before.rfind(b"\n") + 1])


@pytest.fixture(scope="module")
def hub() -> Any:
    return load(FIXTURES / "hub")


@few
@given(wanted=changes(), header=st.booleans())
def test_kept_prefixes(hub: Any, wanted: list[Change], header: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    store, file = PrefixStore(hub[0], 1 << 30), tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    generate(hub[0], hub[1], [20, 21, 22], max_tokens=1, max_denoising_steps=1, prefixes=store)
    store.save(file)
    content = file.read_bytes()
    file.write_bytes((changed_header if header else changed_bytes)(content, wanted))
    other = PrefixStore(hub[0], 1 << 30)
    if refused(lambda: other.load(file), DiffusionError):
        assert len(other) == 0


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
MESSAGES = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "t20"}]},
    {"role": "assistant", "content": "a", "reasoning_content": "r", "tool_calls": [CALL]},
    {"role": "tool", "content": "5", "tool_call_id": "1"},
    {"role": "user", "content": "t21"},
]


@few
@given(wanted=changes())
def test_messages_and_tools(hub: Any, wanted: list[Change]) -> None:
    given = changed_json({"messages": MESSAGES, "tools": [TOOL]}, wanted)
    messages, tools = (given.get(name) if isinstance(given, dict) else given for name in ("messages", "tools"))
    refused(lambda: hub[1].encode_prompt(messages, 96, tools=tools), PromptError)


@few
@given(options=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ODD), min_size=1, max_size=3))
def test_options(hub: Any, options: dict[str, Any]) -> None:
    def write() -> None:
        wished = GenerationConfig(**options)
        most = replace(wished, max_tokens=2, max_denoising_steps=min(wished.max_denoising_steps or 1, 3))
        generate(hub[0], hub[1], [20, 21], config=most)

    refused(write, OptionError)


@few
@given(wanted=changes(), raw=st.booleans())
def test_conversations(wanted: list[Change], raw: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    messages = [Message("user", "hello"), Message("assistant", "hi", 5)]
    whole = Conversation("demo", "s", False, GenerationConfig(seed=1, eos_token_id=(1, 2)), messages).to_json().encode()
    file = tmp_path_factory.getbasetemp() / "conversation.json"
    file.write_bytes(changed_bytes(whole, wanted) if raw else of_json(whole, wanted))
    found: list[Conversation] = []
    if not refused(lambda: found.append(archive.read(file)), ConversationError):
        refused(lambda: archive.write(file, found[0]), ConversationError)
        assert archive.read(file) == found[0], "what was read is written, and read the same"
