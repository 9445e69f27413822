"""A running chat: the conversation, the speaker who answers, what is shown and what is kept.

Knows nothing of how messages are typed or of the command's options.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mlx_diffusion.channels import Channels
from mlx_diffusion.checkpoint.folder import DEMO
from mlx_diffusion.cli.chat.archive import Archive
from mlx_diffusion.cli.chat.attachment import read_attachment, with_attachments
from mlx_diffusion.cli.chat.conversation import Conversation, ConversationError
from mlx_diffusion.cli.chat.following import Interrupt, Outcome, follow
from mlx_diffusion.cli.chat.speaker import Speaker
from mlx_diffusion.cli.chat.views import AnswerView
from mlx_diffusion.display import count_of
from mlx_diffusion.events import Finish
from mlx_diffusion.measure import beyond_demo
from mlx_diffusion.options import Settings
from mlx_diffusion.visible_text import notice, visible

LONGEST_TOKEN = 64  # bytes; a file with more for each token of the context is not read at all


@dataclass
class Session:
    """The state on which the chat's commands work."""

    speaker: Speaker
    conversation: Conversation
    console: Console
    make_view: Callable[[Settings], AnswerView]
    archive: Archive | None = None
    attachments: list[tuple[str, str]] = field(default_factory=list)
    last: Outcome | None = None
    tried: int | None = None  # the last seed that the last question was answered with
    totals: list[Finish] = field(default_factory=list)

    def say(self, text: str) -> bool:
        """Send a message and show its answer; returns whether Ctrl-C stopped that."""
        message = with_attachments(text, self.attachments)
        self.attachments = []
        self.conversation.ask(message)
        self._doubt(message)
        self.tried = None
        return self.respond()

    def respond(self, seed: int | None = None) -> bool:
        """Answer the open question; returns whether Ctrl-C stopped that. Raises DiffusionError."""
        conversation = self.conversation
        config = conversation.settings if seed is None else replace(conversation.settings, seed=seed)
        settings = self.speaker.settings(config)
        self.tried = settings.seed
        self.keep()
        prompt = self.speaker.encode(conversation.prompt(), conversation.think)
        channels = Channels(self.speaker.markers, lambda: self.speaker.decoding(settings), prompt)

        def keep_answer(text: str) -> None:
            conversation.answer(text, settings.seed)
            self.keep()

        with Interrupt() as interrupt:
            events = self.speaker.answer(prompt, config)
            outcome = follow(events, channels, self.make_view(settings), interrupt, keep_answer)
        self.last = outcome
        self._comment(outcome, settings)
        return interrupt.asked

    def _doubt(self, message: str) -> None:
        """Say what of a message the bundled checkpoint cannot know."""
        if self.speaker.name == DEMO:
            doubt = beyond_demo(message, earlier=len(self.conversation.messages) // 2)
            if doubt is not None:
                self.tell(doubt)

    def attach(self, path: Path) -> None:
        """Put a file into the next message. Raises ConversationError."""
        text = read_attachment(path, self.speaker.longest_prompt * LONGEST_TOKEN)
        name = visible(path.name)
        attachments = [*self.attachments, (name, text)]
        trial = replace(self.conversation, messages=list(self.conversation.messages))
        trial.ask(with_attachments("", attachments))
        tokens = len(self.speaker.encode(trial.prompt(), trial.think))
        if tokens > self.speaker.longest_prompt:
            raise ConversationError(
                f"{path} makes the conversation {count_of(tokens, 'token')} long; the context takes "
                f"{self.speaker.longest_prompt:,}, so take a part of it or /reset"
            )
        self.attachments = attachments
        self.tell(
            f"{name} goes with your next message: {count_of(len(text.splitlines()), 'line')}, "
            f"{count_of(tokens, 'token')} with all"
        )

    def keep(self) -> None:
        """Write the conversation to the archive; when that fails, say so once."""
        if self.archive is None:
            return
        try:
            self.archive.keep(self.conversation)
        except ConversationError as error:
            self.archive = None
            self.complain(f"from here on this conversation is not kept: {error}")

    def keep_changes(self) -> None:
        """Write a changed conversation to the archive, unless it is empty."""
        if self.conversation.messages:
            self.keep()

    def tell(self, text: str) -> None:
        """Print lines beside the conversation."""
        self.console.print(Text(visible(text), style="dim"))

    def complain(self, text: object) -> None:
        """Print in one line what could not be done and why."""
        self.console.print(Text(notice(" ".join(str(text).split())), style="red"))

    def _comment(self, outcome: Outcome, settings: Settings) -> None:
        """Print one line about the answer that has just been shown."""
        finish = outcome.finish
        if finish is not None:
            self.totals.append(finish)
        if outcome.tool:
            self.tell("the model called a tool, and a chat has none; ask it to answer without")
        if finish is None:
            kept = "what was final is kept" if outcome.answer else "nothing was final yet"
            self.tell(f"stopped; {kept}. /retry answers anew")
        elif not outcome.answer:
            self.tell("the answer is empty; /retry tries another seed")
        elif finish.finish_reason == "length":
            self.tell(f"cut at max_tokens {settings.max_tokens}; /set max_tokens {4 * settings.max_tokens} and /retry")
        elif finish.finish_reason == "context":
            self.tell("the context is full; /undo takes the last question back, /reset begins anew")
        else:
            self.tell(brief(finish))


def brief(finish: Finish) -> str:
    """The figures shown after each answer, in one line."""
    stats = finish.stats
    speed = stats.generated_tokens / stats.generation_seconds if stats.generation_seconds else 0.0
    steps = f"{count_of(stats.denoising_steps, 'step')} · " if stats.denoising_steps else ""
    return (
        f"{count_of(stats.generated_tokens, 'token')} · {steps}{stats.generation_seconds:.1f} s · {speed:.0f} tokens/s"
    )
