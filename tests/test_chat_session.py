"""The chat's commands and its keys, with a model that says what it is told to."""

from __future__ import annotations

import os
import re
import signal
import stat
from asyncio import get_running_loop
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from mlx_diffusion.channels import MARKERS, Decoding
from mlx_diffusion.cli.chat import following
from mlx_diffusion.cli.chat.archive import Archive
from mlx_diffusion.cli.chat.command import converse
from mlx_diffusion.cli.chat.conversation import Conversation, Message
from mlx_diffusion.cli.chat.prompt import Prompt
from mlx_diffusion.cli.chat.session import Session
from mlx_diffusion.cli.chat.slash_actions import Leave, offer_last
from mlx_diffusion.cli.chat.slash_commands import COMMANDS, completions, hint_at_commands, run_command
from mlx_diffusion.cli.chat.speaker import Messages
from mlx_diffusion.cli.chat.views import PlainView
from mlx_diffusion.errors import DiffusionError, PromptError
from mlx_diffusion.events import Draft, Event, Finish, FinishReason, Segment, Stats
from mlx_diffusion.modes import MODES, MODES_WITH
from mlx_diffusion.options import DEFAULTS, NAMES, GenerationConfig, Settings

FIGURES = Stats(20, 12, 4, 1, 2, 128, 20, 0.5, 2.0, 1.0, 3_000_000_000)


def draft() -> Draft:
    ids = np.zeros(4, np.int32)
    return Draft(0, 0, ids, ids, np.zeros(4, bool), np.ones(4, np.float32))


@dataclass
class Spelling:
    """The text of tokens that each stand for whole characters."""

    decode: Callable[[Sequence[int]], str]

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        return self.decode(tokens)


@dataclass
class Script:
    """A speaker that answers with the seed and counts, or with the next of `says`."""

    says: list[list[str]] = field(default_factory=list)
    reason: FinishReason = "stop"
    asked: list[tuple[Messages, bool, Settings]] = field(default_factory=list)
    during: Callable[[], None] | None = None
    name: str = "script"
    has_chat_template: bool = True
    longest_prompt: int = 1000
    hidden: tuple[int, ...] = ()
    markers: Mapping[int, str] = field(default_factory=lambda: dict(enumerate(MARKERS)))
    texts: list[str] = field(default_factory=lambda: list(MARKERS))  # by token

    def settings(self, config: GenerationConfig) -> Settings:
        return GenerationConfig().resolve(config)

    def encode(self, messages: Messages, think: bool) -> list[int]:
        self.encoded = messages, think
        return self.tokens("".join(message["content"] for message in messages), alone=())

    def tokens(self, text: str, alone: Sequence[str] = MARKERS) -> list[int]:
        """A text as tokens: one for each character, and one for each of `alone`."""
        pieces = re.findall("|".join([*map(re.escape, alone), "(?s:.)"]), text)
        self.texts += dict.fromkeys(piece for piece in pieces if piece not in self.texts)
        return [self.texts.index(piece) for piece in pieces]

    def answer(self, prompt: Sequence[int], config: GenerationConfig) -> Generator[Event, None, None]:
        settings = self.settings(config)
        self.asked.append((*self.encoded, settings))
        if len(prompt) > self.longest_prompt:
            raise PromptError("the prompt is too long")
        texts = self.says.pop(0) if self.says else [f"answer with seed {settings.seed}"]
        for block, text in enumerate(texts):
            yield draft()
            yield Segment(block, tuple(self.tokens(text)), text)
            if self.during is not None:
                self.during()
        yield Finish(self.reason, FIGURES)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.texts[token] for token in tokens)

    def decoding(self, settings: Settings) -> Decoding:
        return Spelling(self.decode)

    def memory_bytes(self) -> int:
        return 1_000_000_000


@dataclass
class Talk:
    """A session, and what it has shown since one last looked."""

    session: Session
    speaker: Script
    out: StringIO

    def shown(self) -> str:
        text = self.out.getvalue()
        self.out.seek(0)
        self.out.truncate()
        return text

    def command(self, line: str) -> str:
        run_command(self.session, line)
        return self.shown()

    def contents(self) -> list[str]:
        return [message.content for message in self.session.conversation.messages]


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    speaker, out = Script(), StringIO()
    console = Console(file=out, width=200, highlight=False)
    conversation = Conversation("script")
    session = Session(speaker, conversation, console, lambda settings: PlainView(out), Archive(tmp_path))
    return Talk(session, speaker, out)


def test_a_message_and_its_answer(talk: Talk) -> None:
    assert talk.session.say("hello") is False
    assert talk.contents() == ["hello", "answer with seed 0"]
    assert talk.shown() == "answer with seed 0\n4 tokens · 2 steps · 2.0 s · 2 tokens/s\n"
    talk.session.say("and?")
    messages, think, _ = talk.speaker.asked[-1]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"] and not think


def test_undo_reset_and_system(talk: Talk) -> None:
    talk.session.say("one")
    talk.session.say("two")
    assert "taken back: two" in talk.command("/undo")
    assert talk.contents() == ["one", "answer with seed 0"]
    assert "be brief" in talk.command("/system be brief")
    talk.command("/reset")
    assert talk.contents() == [] and talk.session.conversation.system == "be brief"
    talk.session.say("three")
    assert talk.speaker.asked[-1][0][0] == {"role": "system", "content": "be brief"}
    assert "(none)" in talk.command("/system off")
    talk.command("/undo")
    with pytest.raises(DiffusionError, match="nothing has been asked"):
        talk.command("/undo")


def test_retry_takes_the_next_seed_or_the_one_it_is_given(talk: Talk) -> None:
    with pytest.raises(DiffusionError, match="nothing has been asked"):
        talk.command("/retry")
    talk.session.say("one")
    assert "answer with seed 1" in talk.command("/retry")
    assert "answer with seed 2" in talk.command("/retry")
    assert "answer with seed 40" in talk.command("/retry 40")
    assert talk.contents() == ["one", "answer with seed 40"] and talk.session.conversation.last_seed == 40
    with pytest.raises(DiffusionError, match="whole number"):
        talk.command("/retry -3")
    talk.speaker.says = [[""], ["at last"]]
    assert "answer with seed 40" in talk.contents(), "an answer is kept until there is another"
    assert "empty" in talk.command("/retry")
    assert talk.contents() == ["one", "answer with seed 40"]


def test_an_empty_answer_leaves_the_question_open(talk: Talk) -> None:
    talk.speaker.says = [[""], ["", ""], ["ok"]]
    talk.session.say("one")
    assert "the answer is empty" in talk.shown() and talk.contents() == ["one"]
    talk.command("/retry")
    talk.command("/retry")
    assert talk.contents() == ["one", "ok"] and talk.session.conversation.last_seed == 2
    talk.command("/undo")
    talk.speaker.says = [[""]]
    talk.session.say("two")
    talk.session.say("three")
    assert talk.contents() == ["three", "answer with seed 0"]


@pytest.mark.parametrize(("reason", "said"), [("length", "/set max_tokens 1024"), ("context", "the context is full")])
def test_an_end_that_is_not_the_models_own_is_explained(talk: Talk, reason: FinishReason, said: str) -> None:
    talk.speaker.reason = reason
    talk.session.say("one")
    assert said in talk.shown()


def test_settings(talk: Talk) -> None:
    listed = talk.command("/set")
    names = [name for name in NAMES if "reference" in MODES_WITH.get(name, MODES)]
    assert all(name in listed for name in names) and listed.count("(default)") == len(names)
    assert "temperature" not in listed and "temperature" in talk.command("/mode speculative") + talk.command("/set")
    talk.command("/mode default")
    assert "max-tokens" not in talk.command("/set max-tokens 12")
    assert talk.command("/set max_tokens") == "max_tokens            12\n"
    talk.command("/set eos_token_id 1, 2")
    talk.command("/set t_min 0.2")
    talk.session.say("one")
    settings = talk.speaker.asked[-1][2]
    assert (settings.max_tokens, settings.eos_token_id, settings.t_min) == (12, (1, 2), 0.2)
    assert "256" in talk.command("/set max_tokens default")
    assert talk.command("/mode") == "mode                  reference  (default)\n"
    assert talk.command("/mode reference") == "mode                  reference\n"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("/hlep", "'/help'"),
        ("/HELP", "'/help'"),
        ("/home/me/my notes.txt", "/file /home/me/my notes.txt"),
        ("/sett max_tokens 3", "'/set'"),
        ("/", "'/"),
        ("/set max_tokns 3", "'max_tokens'"),
        ("/set max_tokens many", "whole number"),
        ("/set max_tokens 0", "1 or more"),
        ("/set max_tokens 1.5", "whole number"),
        ("/set t_min 0.9", "t_max must be greater"),
        ("/set entropy_bound nan", "finite"),
        ("/set eos_token_id a", "whole number"),
        ("/mode quick", "reference"),
        ("/think maybe", "'"),
        ("/undo 3", "takes nothing"),
        ("/save", "needs the file"),
        ("/save /no/such/folder/x", "cannot be written"),
        ("/load /no/such/file", "No such file"),
        ("/load", "no earlier conversation"),
        ("/file /no/such/file", "No such file"),
    ],
)
def test_a_wrong_line_is_told_so_in_one_line(talk: Talk, line: str, named: str) -> None:
    before = talk.session.conversation.to_json()
    with pytest.raises(DiffusionError) as caught:
        run_command(talk.session, line)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert talk.session.conversation.to_json() == before


def test_save_and_load(talk: Talk, tmp_path: Path) -> None:
    talk.session.say("one")
    talk.command("/set max_tokens 12")
    file = tmp_path / "talk.json"
    talk.command(f"/save {file}")
    talk.command("/reset")
    talk.command("/set max_tokens 99")
    said = talk.command(f"/load {file}")
    assert "1 question" in said and "> one" in said and "answer with seed 0" in said
    assert talk.contents() == ["one", "answer with seed 0"] and talk.session.conversation.settings.max_tokens == 12
    file.write_text(file.read_text().replace('"script"', '"other"'))
    assert "held with other, goes on with script" in talk.command(f"/load {file}")
    assert talk.session.conversation.model == "script"


def test_save_writes_over_no_file_unasked(talk: Talk, tmp_path: Path) -> None:
    talk.session.say("one")
    victim = tmp_path / "victim.py"
    victim.write_text("precious")
    for name in (victim, tmp_path, "/dev/null"):
        with pytest.raises(DiffusionError, match="is there already"):
            talk.command(f"/save {name}")
    with pytest.raises(DiffusionError, match="no regular file"):
        talk.command("/save --force /dev/null")
    assert victim.read_text() == "precious" and not Path("/dev/null").is_file()
    for line in (f"/save --force {victim}", f"/save {victim} --force"):
        talk.command(line)
        assert Conversation.from_json(victim.read_text()).messages[0].content == "one"


def test_a_page_to_read_is_markdown(talk: Talk, tmp_path: Path) -> None:
    talk.command("/system be brief")
    talk.session.say("one\ntwo")
    talk.command(f"/save {tmp_path / 'talk.MD'}")
    assert (tmp_path / "talk.MD").read_text() == (
        "# Conversation with script\n\n## System\n\nbe brief\n\n## Question\n\none\ntwo\n\n"
        "## Answer\n\nanswer with seed 0\n"
    )
    with pytest.raises(DiffusionError, match="a page to read"):
        talk.command(f"/load {tmp_path / 'talk.MD'}")


def test_load_says_which_settings_come_with_a_conversation(talk: Talk, tmp_path: Path) -> None:
    talk.session.say("one")
    for line in ("/set max_tokens 12", "/think on", "/system be\x1b brief", f"/save {tmp_path / 'talk'}"):
        talk.command(line)
    for line in ("/reset", "/set default", "/think off", "/system off", "/set seed 3"):
        said = talk.command(line)
    said = talk.command(f"/load {tmp_path / 'talk'}")
    for part in (
        "max_tokens            12\n",
        "seed                  0  (default)\n",
        "thinking is on\n",
        "system: be\\x1b brief",
    ):
        assert part in said
    assert "/set default" in said and "entropy_bound" not in said
    assert "other settings" not in talk.command(f"/load {tmp_path / 'talk'}")
    assert all(line.endswith("(default)") for line in talk.command("/set default").splitlines())


@pytest.mark.parametrize(
    "typed",
    [
        "{}/my notes.txt", r"{}/my\ notes.txt", "'{}/my notes.txt'", '"{}/my notes.txt"', "file://{}/my%20notes.txt",
        "file://localhost{}/my%20notes.txt", "file:{}/my%20notes.txt", "'file://{}/my%20notes.txt'", "~/my notes.txt",
        r"~/my\ notes.txt", "'~/my notes.txt'", r"{}/'my '\notes.txt",
    ],
)  # fmt: skip
def test_paths_as_people_paste_them(typed: str, talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    talk.session.say("one")
    talk.command(f"/save {typed.format(tmp_path)}")
    assert [file.name for file in tmp_path.glob("*.txt")] == ["my notes.txt"]
    talk.command(f"/load {typed.format(tmp_path)}")
    talk.command(f"/file {typed.format(tmp_path)}")
    assert talk.session.attachments[0][0] == "my notes.txt"


def test_a_name_that_a_shell_would_change_is_taken_as_it_is(talk: Talk, tmp_path: Path) -> None:
    for name in ("it's.txt", r"a\ b.txt", '"quoted".txt', "~.txt"):
        (tmp_path / name).write_text("text")
        talk.command(f"/file {tmp_path / name}")
    assert len(talk.session.attachments) == 4
    for wrong in ("a\0b", "file://elsewhere/notes.txt", "x" * 5000, "'open"):
        with pytest.raises(DiffusionError):
            talk.command(f"/file {wrong}")


def test_devices_and_pipes_are_not_read(talk: Talk, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for command in ("/load", "/file"):
        for name in ("/dev/zero", tmp_path / "pipe"):
            with pytest.raises(DiffusionError, match="no regular file"):
                talk.command(f"{command} {name}")


def test_an_attached_file_can_be_dropped(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("buy figs\n")
    talk.command(f"/file {tmp_path / 'notes.txt'}")
    assert "notes.txt" in talk.command("/file")
    assert "no file" in talk.command("/file off")
    talk.session.say("what?")
    assert talk.contents()[0] == "what?"


def test_a_conversation_is_kept_as_it_goes_and_offered_again(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "KEEP_SECONDS", 0.0)
    kept: list[list[Message]] = []

    def look() -> None:
        archive = talk.session.archive
        assert archive is not None
        kept.append(Conversation.from_json(archive.kept()[0].read_text()).messages)

    talk.speaker.during = look
    talk.speaker.says = [["one ", "two"]]
    talk.session.say("count")
    assert kept == [
        [Message("user", "count"), Message("assistant", "one", 0)],
        [Message("user", "count"), Message("assistant", "one two", 0)],
    ]
    talk.speaker.during = None
    again = Session(Script(), Conversation("script"), talk.session.console, talk.session.make_view, Archive(tmp_path))
    talk.shown()
    offer_last(again)
    assert "1 question) is kept: /load goes on with it." in talk.shown()
    run_command(again, "/load")
    assert [message.content for message in again.conversation.messages] == ["count", "one two"]


def test_an_answer_of_many_parts_is_kept_now_and_then_and_at_the_end(talk: Talk) -> None:
    archive = talk.session.archive
    assert archive is not None
    talk.session.say("first")
    times: list[int] = []
    talk.speaker.during = lambda: times.append(archive.kept()[0].stat().st_mtime_ns)
    talk.speaker.says = [[*"0123456789" * 10]]
    talk.session.say("count")
    assert len(set(times)) < 20
    assert Conversation.from_json(archive.kept()[0].read_text()).messages[-1].content == "0123456789" * 10


def test_a_broken_kept_conversation_is_one_line(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "conversations").mkdir()
    (tmp_path / "conversations" / "a.json").write_text('{"format"')
    with pytest.raises(DiffusionError, match="is broken") as caught:
        offer_last(talk.session)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_said_once_and_stops_nothing(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "conversations").write_text("in the way")
    talk.session.say("one")
    talk.session.say("two")
    assert talk.shown().count("not kept") == 1 and len(talk.contents()) == 4


def test_thinking_is_never_mixed_into_the_answer(talk: Talk) -> None:
    assert "no thought" in talk.command("/think show")
    assert "thinking is on" in talk.command("/think on")
    talk.speaker.says = [["<|channel>thought\nhm ", "ha<channel|>yes"]]
    talk.session.say("one")
    assert talk.speaker.asked[-1][1] is True
    assert talk.contents() == ["one", "yes"] and "hm" not in talk.shown()
    assert "hm ha" in talk.command("/think show")


def test_a_call_of_a_tool_is_no_text(talk: Talk) -> None:
    talk.speaker.says = [["<|tool_call>call:weather{}<tool_call|>"]]
    talk.session.say("one")
    shown = talk.shown()
    assert "weather" not in shown and "called a tool" in shown


def test_files_go_into_the_next_message_once(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("buy figs\n")
    assert "notes.txt goes with your next message: 1 line, " in talk.command(f"/file {tmp_path / 'notes.txt'}")
    talk.session.say("what?")
    talk.session.say("why?")
    assert talk.contents()[0] == "what?\n\nnotes.txt:\n\nbuy figs" and talk.contents()[2] == "why?"
    (tmp_path / "long.txt").write_text("x" * 2000)
    with pytest.raises(DiffusionError, match="the context takes 1,000"):
        talk.command(f"/file {tmp_path / 'long.txt'}")
    talk.session.say("and?")
    assert talk.contents()[4] == "and?"


def test_stats(talk: Talk) -> None:
    assert "context 0 of 1,000" in talk.command("/stats")
    talk.session.say("one")
    talk.shown()
    said = talk.command("/stats")
    assert "from earlier turns: 12 tokens" in said and "all 1 answer: 4 tokens" in said and "1.00 GB" in said


def test_help_names_every_command(talk: Talk) -> None:
    said = talk.command("/help")
    assert all(name in said for name in COMMANDS) and "Ctrl-R" in said
    with pytest.raises(Leave):
        run_command(talk.session, "/quit")


def test_completions(talk: Talk) -> None:
    assert completions(talk.session, "/re") == ["/retry", "/reset"]
    assert completions(talk.session, "/set max-") == ["max_tokens", "max_denoising_steps"]
    assert completions(talk.session, "/set mode ") == [*MODES, "default"]
    assert completions(talk.session, "/set max_tokens ") == [str(DEFAULTS.max_tokens), "default"]
    assert completions(talk.session, "/think o") == ["on", "off"]
    assert completions(talk.session, "/mode ") == list(MODES)
    assert completions(talk.session, "/file x") is None
    assert completions(talk.session, "/undo x") == []


@pytest.mark.parametrize("word", ["help", "exit", "QUIT", "quit ", ":q", "exit()", "undo", "?", "stats"])
def test_a_word_that_is_a_command_elsewhere_is_not_sent(talk: Talk, word: str) -> None:
    hint = hint_at_commands(word)
    assert hint is not None and "is not sent" in hint and "/" in hint
    assert hint_at_commands(f" {word}") is None and hint_at_commands(f"{word} me") is None


# Ctrl-C


def test_the_first_interrupt_keeps_what_is_final(talk: Talk) -> None:
    talk.speaker.says = [["one ", "two ", "three"]]
    talk.speaker.during = lambda: signal.raise_signal(signal.SIGINT) if len(talk.contents()) == 2 else None
    before = signal.getsignal(signal.SIGINT)
    assert talk.session.say("count") is True
    assert talk.contents() == ["count", "one"]
    assert "what was final is kept" in talk.shown()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_interrupt_leaves(talk: Talk) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    talk.speaker.during = twice
    with pytest.raises(KeyboardInterrupt):
        talk.session.say("count")
    assert talk.contents() == ["count", "answer with seed 0"]


# Keys


@pytest.fixture
def typed(talk: Talk, tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    with create_pipe_input() as keys:

        def type_keys(*chunks: str, history: Path | None = None) -> list[str]:
            prompt = Prompt(talk.session, history, input=keys, output=DummyOutput())
            lines = []
            for chunk in chunks:
                keys.send_text(chunk)
                try:
                    lines.append(prompt.read())
                except (EOFError, KeyboardInterrupt) as error:
                    lines.append(type(error).__name__)
            return lines

        yield type_keys


UP, CTRL_C, CTRL_D, CTRL_J, CTRL_R, TAB, ALT_ENTER = "\x1b[A", "\x03", "\x04", "\n", "\x12", "\t", "\x1b\r"


def test_keys(typed: Callable[..., list[str]]) -> None:
    assert typed("one\r", UP + "!\r", f"a{CTRL_J}b\r", f"a{ALT_ENTER}b\r", "a\\\rb\r") == [
        "one", "one!", "a\nb", "a\nb", "a\nb",
    ]  # fmt: skip
    assert typed("\x1b[200~pasted\r\n\tlines\x1b[201~\r") == ["pasted\n\tlines"]
    assert typed(f"gone{CTRL_C}kept\r", CTRL_C, CTRL_D) == ["kept", "KeyboardInterrupt", "EOFError"]


def test_what_was_typed_is_found_again(typed: Callable[..., list[str]], tmp_path: Path) -> None:
    typed("first\r", "second\nline\r", history=tmp_path / "history")
    assert typed(UP + UP + UP + "\r", f"{CTRL_R}FIR\r\r", history=tmp_path / "history") == ["first", "first"]


def test_what_was_typed_is_the_users_alone(typed: Callable[..., list[str]], tmp_path: Path) -> None:
    history = tmp_path / "history"
    history.touch(0o644)
    typed("first\r", history=history)
    assert stat.S_IMODE(history.stat().st_mode) == 0o600 and "first" in history.read_text()


def test_a_history_that_cannot_be_used_is_said_once_and_stops_nothing(
    talk: Talk, typed: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "missing/history", "pipe"):
        assert typed("one\r", "two\r", UP + UP + "\r", history=tmp_path / name) == ["one", "two", "one"]
        assert talk.shown().count("is not kept") == 1

    def fail(history: FileHistory, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileHistory, "store_string", fail)
    assert typed("one\r", "two\r", UP + UP + "\r", history=tmp_path / "history") == ["one", "two", "one"]
    assert talk.shown().count("No space left") == 1


def test_an_editor_that_fails_is_said_in_one_line(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    with create_pipe_input() as keys:

        def fail(buffer: Buffer, validate_and_handle: bool) -> None:
            get_running_loop().call_later(0.05, keys.send_text, " two\r")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Buffer, "open_in_editor", fail)
        keys.send_text("one\x18\x05")
        assert Prompt(talk.session, None, input=keys, output=DummyOutput()).read() == "one two"
    said = talk.shown()
    assert "No space left on device" in said and said.count("\n") == 1


def test_a_conversation_from_its_first_key_to_its_last(talk: Talk, tmp_path: Path) -> None:
    with create_pipe_input() as keys:
        prompt = Prompt(talk.session, None, input=keys, output=DummyOutput())
        keys.send_text("hello\rexit\r  \r/nothing\r /no command\r/set seed 5\r/retry 7\r" + CTRL_C + CTRL_C)
        converse(talk.session, prompt)
    said = talk.shown()
    assert talk.contents() == ["hello", "answer with seed 0", "/no command", "answer with seed 7"]
    assert "unknown command '/nothing'" in said and "exit is not sent" in said and "Ctrl-C once more leaves" in said
