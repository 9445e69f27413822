"""What the chat makes of text: answer and thought told apart, Markdown shown, conversations written and read."""

import json
import os
import stat
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from mlx_diffusion.cli.chat import archive, markup
from mlx_diffusion.cli.chat.archive import Archive, read, write
from mlx_diffusion.cli.chat.attachment import read_attachment, with_attachments
from mlx_diffusion.cli.chat.channels import MARKERS, Channels
from mlx_diffusion.cli.chat.conversation import FORMAT, Conversation, ConversationError, Message
from mlx_diffusion.cli.state import state_folder
from mlx_diffusion.options import GenerationConfig

# Channels


def told_apart(parts: list[str]) -> dict[str, str]:
    channels, texts = Channels(), {"answer": "", "thought": "", "tool": ""}
    for number, text in enumerate(parts):
        for part in channels.push(text, last=number == len(parts) - 1):
            texts[part.kind] += part.text
    return texts


TURN = '<|channel>thought\nLet me see.\nYes.<channel|>It is 5.<|tool_call>call:f{a:<|"|>b<|"|>}<tool_call|> Done<turn|>'
APART = {"answer": "It is 5. Done", "thought": "Let me see.\nYes.", "tool": "call:f{a:b}"}


@given(st.lists(st.integers(0, len(TURN)), max_size=6))
def test_however_a_turn_is_cut_its_parts_are_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TURN)]
    assert told_apart([TURN[start:end] for start, end in pairwise(edges)]) == APART


@given(st.lists(st.sampled_from([*MARKERS, "a", "<", "|", ">", "\n", "<|chan", "thought\n"])))
def test_no_marker_ever_leaks(parts: list[str]) -> None:
    for text in told_apart([*parts, ""]).values():
        assert not any(marker in text for marker in MARKERS)


def test_what_only_looks_like_a_marker_is_text() -> None:
    assert told_apart(["a <|", "b|> <channel", " x"])["answer"] == "a <|b|> <channel x"
    assert told_apart(["ends with <|cha"])["answer"] == "ends with <|cha"
    assert Channels().push("a<|cha")[0].text == "a"


def test_an_unfinished_thought_is_no_answer() -> None:
    assert told_apart(["<|channel>thou", "ght\nwell ", "then"]) == {"answer": "", "thought": "well then", "tool": ""}


# Markdown


def shown(text: str, width: int = 40, colors: Any = None) -> str:
    out = StringIO()
    markup.show(Console(file=out, width=width, force_terminal=True, color_system=colors), text)
    return out.getvalue()


CODE = "```python\ndef f(x):\n    return x + 1  # a line that is longer than the window is wide\n```"


def test_code_is_highlighted_and_can_be_copied() -> None:
    assert "\n" + CODE.split("\n", 1)[1].rsplit("\n", 1)[0] + "\n" in shown(f"so\n\n{CODE}\n\nok")
    colored = shown(CODE, colors="standard")
    assert "\x1b[35" in colored
    assert not any(f"\x1b[{code}m" in colored or f";{code}m" in colored for code in range(40, 48)), "a background"


def test_lines_have_no_padding() -> None:
    text = shown("# Title\n\n> quote\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |", colors="standard")
    assert all(line == line.rstrip(" ") for line in Text.from_ansi(text).plain.split("\n"))
    assert "Title" in text and "#" not in Text.from_ansi(text).plain


@pytest.mark.parametrize("width", [1, 2, 5, 19, 20, 21, 200])
def test_any_width(width: int) -> None:
    text = shown(f"# A b\n\n1. x\n2. 漢字\n\n> q\n\n{CODE}\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[a](b)", width)
    assert "漢字" in text.replace("\n", "")


def test_nothing_moves_the_cursor() -> None:
    assert "\x1b[2J" not in shown("a \x1b[2J b")
    assert shown(" \n ") == "" and shown("") == ""


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("", ""), ("one", ""), ("one\n\ntwo", "one\n\n"), ("one\n\n```\na\n\nb", "one\n\n"), ("- a\n\n- b", ""),
        ("```\na\n```\nmore", "```\na\n```\n"), ("# t\ntext", "# t\n"), ("\n\n", ""),
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
    for name, named in (("missing", "No such file"), ("binary", "not text"), (".", "directory")):
        with pytest.raises(ConversationError, match=named):
            read(tmp_path / name)


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
    }
    for name, named in cases.items():
        with pytest.raises(ConversationError, match=named):
            read_attachment(tmp_path / name, 100)
    with pytest.raises(ConversationError, match="more than 7 bytes"):
        (tmp_path / "long").write_text("12345678")
        read_attachment(tmp_path / "long", 7)
