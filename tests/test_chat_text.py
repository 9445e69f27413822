"""What the chat makes of text: answer and thought told apart, Markdown shown, conversations written and read."""

import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mlx_diffusion.channels import MARKERS, Channels
from mlx_diffusion.cli.chat import archive, markup
from mlx_diffusion.cli.chat.archive import Archive, read, write
from mlx_diffusion.cli.chat.attachment import read_attachment, with_attachments
from mlx_diffusion.cli.chat.conversation import FORMAT, Conversation, ConversationError, Message
from mlx_diffusion.options import NAMES, GenerationConfig
from mlx_diffusion.state import StateError, state_folder
from mlx_diffusion.visible_text import visible

# Channels

TOKENS = dict(enumerate([*MARKERS, *"abcdefghijklmnopqrstuvwxyz", *"ILY", *' .:{}05\n<|>_"', "ü"]))
IDS = {text: token for token, text in TOKENS.items()}


@dataclass
class Spelling:
    """The text of tokens, the last character of which may still change."""

    held: str = ""

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        text = self.held + "".join(TOKENS[token] for token in tokens)
        certain = len(text) if last else max(len(text) - 1, 0)
        self.held = text[certain:]
        return text[:certain]


def tokens(text: str, markers: bool = True) -> list[int]:
    pattern = "|".join([*(map(re.escape, MARKERS) if markers else ()), "(?s:.)"])
    return [IDS[piece] for piece in re.findall(pattern, text)]


def told_apart(parts: Sequence[Sequence[int]], prompt: Sequence[int] = ()) -> dict[str, str]:
    channels, texts = Channels(dict(enumerate(MARKERS)), Spelling, prompt), {"answer": "", "thought": "", "tool": ""}
    for number, part in enumerate(parts):
        for found in channels.push(part, last=number == len(parts) - 1):
            texts[found.kind] += found.text
    return texts


TURN = '<|channel>thought\nLet me see.\nYes.<channel|>It is 5.<|tool_call>call:f{a:<|"|>b<|"|>}<tool_call|> done<turn|>'
APART = {"answer": "It is 5. done", "thought": "Let me see.\nYes.", "tool": "call:f{a:b}"}


@given(st.lists(st.integers(0, len(tokens(TURN))), max_size=6))
def test_however_a_turn_is_cut_its_parts_are_the_same(cuts: list[int]) -> None:
    turn = tokens(TURN)
    edges = [0, *sorted(cuts), len(turn)]
    assert told_apart([turn[start:end] for start, end in pairwise(edges)]) == APART


def test_a_marker_that_ordinary_tokens_spell_is_text() -> None:
    spelled = "The template opens with <|turn> and thoughts with <|channel>; then <channel|> text.".lower()
    known = "".join(character for character in spelled if character in IDS)
    assert told_apart([tokens(known, markers=False)])["answer"] == known


def test_an_unfinished_thought_is_no_answer() -> None:
    parts = [tokens(part) for part in ("<|channel>thou", "ght\nwell ", "then")]
    assert told_apart(parts) == {"answer": "", "thought": "well then", "tool": ""}


@pytest.mark.parametrize(
    ("prompt", "answer", "thought"),
    [
        ("<|turn>model\n<|channel>thought\n", "yes", "hm"),
        ("<|turn>model\n<|channel>thought\nso", "yes", "hm"),
        ("<|channel>thought\n<channel|>", "hmyes", ""),
        ("<|channel>thought\nhm<turn|>\n<|turn>model\n", "hmyes", ""),
    ],
)
def test_a_thought_that_the_prompt_leaves_open_goes_on(prompt: str, answer: str, thought: str) -> None:
    found = told_apart([tokens("hm<channel|>yes")], tokens(prompt))
    assert (found["answer"], found["thought"]) == (answer, thought)


# Markdown


def shown(text: str, width: int = 40, colors: Any = None) -> str:
    out = StringIO()
    markup.show(Console(file=out, width=width, force_terminal=True, color_system=colors), text)
    return out.getvalue()


SEQUENCE = re.compile(r"\x1b\[[\d;]*m")
CODE = "```python\ndef f(x):\n    return x + 1  # a line that is longer than the window is wide\n```\n"
ANSWERS = [
    "Use the <details> tag, or std::vector<int> in C++.\n\n<div>\n\nblock\n</div>\n",
    "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1\n",
    "Roses  are red,\n  violets are blue,  \n\n\n\tand &amp; so on\\\\ \\* ![x](y) [z]: w\n[a]: b\n",
    "| a | b |\n|---|:-:|\n| 1 |\n\n# t #\n\nA\n=\n\n***\n* * *\n> - 1. ~~~js\n> let x\n",
    CODE,
]


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_shown_as_it_was_written(text: str) -> None:
    assert SEQUENCE.sub("", shown(text, colors="truecolor")) == text == shown(text)


PIECES = [
    *"*_`~#>-+=|<>[]()!&\\ \t1.:a\r",
    "\n",
    "\n\n",
    "```",
    "```python\n",
    "- ",
    "1. ",
    "    ",
    "def f(): 'x'",
    "漢 ü",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join) | st.text(st.characters(exclude_categories=["Cs"])))
def test_styles_neither_drop_nor_add_a_character(text: str) -> None:
    console = Console(file=StringIO(), force_terminal=True, color_system="truecolor")
    assert SEQUENCE.sub("", markup.styled(text, console)) == visible(text)
    assert text[: markup.certain_length(text)] + text[markup.certain_length(text) :] == text


def test_styles() -> None:
    text = shown(f"# Title\n\nso **very** `much`\n\n1. one\n\n> - quote\n\n{CODE}", colors="standard")
    for styled in (
        "\x1b[1m# Title",
        "\x1b[1m**very**",
        "\x1b[1m`much`",
        "\x1b[1m1. ",
        "\x1b[2m```python",
        "\x1b[35mdef",
    ):
        assert styled in text
    assert "\x1b[34mf\x1b" in text and "\x1b[2m# a line that is longer" in text
    assert not any(f"\x1b[{code}m" in text or f";{code}m" in text for code in range(40, 48)), "a background"


def test_nothing_moves_the_cursor() -> None:
    assert shown("a \x1b[2J b\n", colors="standard") == "a \\x1b[2J b\n"
    assert shown("") == ""


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("", ""), ("one", ""), ("one\n\ntwo", "one\n\n"), ("one\n\n```\na\n\nb", "one\n\n"), ("- a\n\n- b", ""),
        ("```\na\n```\nmore", "```\na\n```\n"), ("# t\ntext", "# t\n"), ("\n\n", ""),
        ("a\u2028b\x0cc\rd\n\ntwo", "a\u2028b\x0cc\rd\n\n"),
    ],
)  # fmt: skip
def test_only_the_last_block_may_still_change(text: str, certain: str) -> None:
    assert text[: markup.certain_length(text)] == certain


# Conversations


def talk() -> Conversation:
    settings = GenerationConfig(max_tokens=9, t_min=0.1, eos_token_id=(1, 2))
    messages = [Message("user", "Grüße\n漢"), Message("assistant", "a", seed=3), Message("user", "and?")]
    return Conversation("demo", "be brief", True, settings, messages)


def test_a_conversation_is_written_and_read() -> None:
    text = talk().to_json()
    assert Conversation.from_json(text) == talk()
    assert "Grüße" in text and json.loads(text)["settings"] == {"max_tokens": 9, "t_min": 0.1, "eos_token_id": [1, 2]}


def test_turns() -> None:
    conversation = talk()
    assert conversation.prompt()[0] == {"role": "system", "content": "be brief"}
    assert conversation.prompt()[2] == {"role": "assistant", "content": "a"}
    conversation.ask("instead?")
    assert [message.content for message in conversation.messages] == ["Grüße\n漢", "a", "instead?"]
    conversation.answer("so", 1)
    conversation.answer("so it is", 1)
    assert conversation.last_seed == 1 and len(conversation.messages) == 4
    assert conversation.undo() == "instead?" and conversation.undo() == "Grüße\n漢"
    with pytest.raises(ConversationError, match="nothing has been asked"):
        conversation.undo()


def broken(**changes: Any) -> str:
    return json.dumps(json.loads(talk().to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", FORMAT),
        (broken(format="other"), FORMAT),
        (broken(model=None), "model"),
        (broken(think=1), "think"),
        (broken(system=3), "system"),
        (broken(settings={"tokens": 3}), "'tokens'"),
        (broken(settings={"max_tokens": 0}), "max_tokens is 0"),
        (broken(messages={}), "messages"),
        (broken(messages=["hi"]), "message 1"),
        (broken(messages=[{"role": "assistant", "content": "x"}]), "take turns"),
        (broken(messages=[{"role": "user"}]), "content"),
        (broken(messages=[{"role": "user", "content": "\ud800"}]), "Unicode"),
        (broken(messages=[{"role": "user", "content": "x", "seed": "1"}]), "seed"),
    ],
)
def test_a_broken_conversation_is_one_line(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConversationError) as caught:
        read(file)
    message = str(caught.value)
    assert named in message and str(file) in message and "\n" not in message


def test_files_that_are_no_conversation(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, named in (("missing", "No such file"), ("binary", "not text"), (".", "folder")):
        with pytest.raises(ConversationError, match=named):
            read(tmp_path / name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*NAMES, "role", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = ("format", "model", "system", "think", "settings", "messages")


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2))
def test_a_conversation_is_taken_whole_or_not_at_all(changes: dict[str, Any], settings: dict[str, Any]) -> None:
    try:
        taken = Conversation.from_json(broken(**{"settings": settings, **changes}))
    except ConversationError as error:
        assert str(error)
    else:
        assert Conversation.from_json(taken.to_json()) == taken
        taken.to_markdown().encode()


@given(st.dictionaries(st.sampled_from(["role", "content", "seed"]), VALUES))
def test_a_message_is_taken_whole_or_not_at_all(entry: dict[str, Any]) -> None:
    try:
        taken = Conversation.from_json(broken(messages=[{"role": "user", "content": "x", **entry}]))
    except ConversationError as error:
        assert str(error)
    else:
        assert Conversation.from_json(taken.to_json()) == taken


@given(st.binary(max_size=40), st.integers(0, 600), st.integers(0, 600))
def test_a_damaged_file_is_one_line(damage: bytes, start: int, length: int) -> None:
    content = talk().to_json().encode()
    with NamedTemporaryFile(suffix=".json") as file:
        file.write(content[:start] + damage + content[start + length :])
        file.flush()
        try:
            read(Path(file.name))
        except ConversationError as error:
            assert file.name in str(error)


# Files


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "talk.json"
    write(file, talk())
    before = file.read_text()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConversationError, match="No space left"):
        write(file, Conversation("another"))
    assert file.read_text() == before and list(tmp_path.iterdir()) == [file]
    with pytest.raises(ConversationError, match="cannot be written"):
        write(tmp_path / "missing" / "talk.json", talk())


def test_conversations_are_kept_for_the_user_alone(tmp_path: Path) -> None:
    kept = Archive(tmp_path / "state")
    assert kept.last() is None
    kept.keep(talk())
    (file,) = kept.kept()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert kept.last() is None and Archive(tmp_path / "state").last() == file
    kept.keep(talk())
    assert kept.kept() == [file], "one conversation, one file"
    kept.begin_anew()
    kept.keep(talk())
    assert len(kept.kept()) == 2 and kept.last() == file


def test_old_conversations_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_KEPT", 3)
    for number in range(5):
        kept = Archive(tmp_path)
        kept.keep(talk())
        os.utime(kept.kept()[0], (number, number))
    assert len(kept.kept()) == 3


def test_the_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_folder({"XDG_STATE_HOME": "/state"}) == Path("/state/mlx-diffusion")
    monkeypatch.setattr("sys.platform", "linux")
    assert state_folder({"XDG_STATE_HOME": "relative"}) == Path.home() / ".local/state/mlx-diffusion"
    monkeypatch.setattr("sys.platform", "darwin")
    assert state_folder({}) == Path.home() / "Library/Application Support/mlx-diffusion"
    monkeypatch.setattr(Path, "home", raising(RuntimeError("Could not determine home directory.")))
    with pytest.raises(StateError, match="XDG_STATE_HOME"):
        state_folder({})


def raising(error: Exception) -> Any:
    def fail(*arguments: object) -> None:
        raise error

    return fail


def test_attachments(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes("\N{ZERO WIDTH NO-BREAK SPACE}Grüße\n".encode())
    assert read_attachment(file, 100) == "Grüße\n"
    assert with_attachments("look", [("notes.txt", "Grüße\n")]) == "look\n\nnotes.txt:\n\nGrüße"
    (tmp_path / "binary").write_bytes(b"PK\0")
    (tmp_path / "latin").write_bytes("Grüße".encode("latin-1"))
    (tmp_path / "empty").write_text(" \n")
    os.mkfifo(tmp_path / "pipe")
    cases = {
        "binary": "binary",
        "latin": "byte 2",
        "empty": "empty",
        "missing": "No such",
        ".": "folder",
        "pipe": "regular",
        "/dev/zero": "regular",
    }
    for name, named in cases.items():
        with pytest.raises(ConversationError, match=named):
            read_attachment(tmp_path / name, 100)
    with pytest.raises(ConversationError, match="more than 7 bytes"):
        (tmp_path / "long").write_text("12345678")
        read_attachment(tmp_path / "long", 7)
