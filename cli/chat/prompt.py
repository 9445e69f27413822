"""The prompt for messages: several lines, history and search, completion of commands.

Knows nothing of what is done with a message.
"""

from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

from mlx_diffusion.cli.chat.history import PrivateHistory
from mlx_diffusion.cli.chat.session import Session
from mlx_diffusion.cli.chat.slash_actions import FORCE
from mlx_diffusion.cli.chat.slash_commands import completions


class CommandCompleter(Completer):
    """Completes commands, their options and values, and paths."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        if not line.startswith("/") or "\n" in line:
            return
        words = completions(self.session, line)
        word = line.rpartition(" ")[2]
        if words is None:
            path = line.partition(" ")[2].removeprefix(FORCE).lstrip()
            yield from self.paths.get_completions(Document(path), complete_event)
            return
        for offered in words:
            yield Completion(offered, start_position=-len(word))


class Prompt:
    """Reads one message after another."""

    def __init__(
        self, session: Session, history_file: Path | None, *, input: Input | None = None, output: Output | None = None
    ) -> None:
        self.kept = PrivateHistory(history_file) if history_file is not None else None
        self.complain = session.complain
        self._tell_problem()
        history: History = self.kept or InMemoryHistory()
        self.session: PromptSession[str] = PromptSession(
            history=history,
            multiline=True,
            prompt_continuation="  ",
            completer=CommandCompleter(session),
            complete_while_typing=Condition(self._is_command),
            key_bindings=_bindings(),
            enable_open_in_editor=True,
            enable_suspend=True,
            search_ignore_case=True,
            reserve_space_for_menu=4,
            input=input,
            output=output,
        )

    def read(self) -> str:
        """Read the next message. Raises EOFError at the end and KeyboardInterrupt for Ctrl-C in an empty line."""
        try:
            text = self.session.prompt("> ", pre_run=self._watch, set_exception_handler=False)
        finally:
            self._tell_problem()
        return text.encode("utf-8", "replace").decode("utf-8")  # bytes that are no text come as surrogates

    def _watch(self) -> None:
        """Say in one line what goes wrong beside the prompt, such as an editor's file, and go on."""

        def say(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            what = f"{type(error).__name__}: {error}" if error is not None else context["message"]
            run_in_terminal(lambda: self.complain(f"that did not work ({what})"))

        get_running_loop().set_exception_handler(say)

    def _tell_problem(self) -> None:
        """Say once why the history is not kept."""
        if self.kept is not None and self.kept.problem is not None:
            self.complain(self.kept.problem)
            self.kept = None

    def _is_command(self) -> bool:
        return self.session.default_buffer.text.startswith("/")


def _bindings() -> KeyBindings:
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None
        elif buffer.document.text_before_cursor.endswith("\\") and buffer.document.is_cursor_at_the_end_of_line:
            buffer.delete_before_cursor()
            buffer.newline()
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    @keys.add("c-j", filter=typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline()

    @keys.add("c-c", filter=typing)
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return keys
