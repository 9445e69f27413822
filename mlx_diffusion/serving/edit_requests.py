"""Requests for edits of code as Mercury's clients write them: one message, whose parts stand between tags.

They are read as chats that say what is to be done with those parts. Knows nothing of how an answer is made.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mlx_diffusion.modes import CAUSAL, Mode
from mlx_diffusion.serving.bodies import Body, Count, Penalty, Positive, Seed, Share, Steps
from mlx_diffusion.serving.openai_requests import ChatRequest, StreamOptions
from mlx_diffusion.serving.problems import bad

SAMPLERS = ("temperature", "top_p")  # which denoising has not
PENALTIES = ("presence_penalty", "frequency_penalty")


class ContentPart(Body):
    """A part of a message's text."""

    type: Literal["text"]
    text: str


class TaggedMessage(Body):
    """The one message of a request."""

    role: Literal["user"]
    content: str | list[ContentPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class TaggedRequest(Body):
    """What both kinds of edits share."""

    TAGS: ClassVar[tuple[str, ...]]
    TASK: ClassVar[str]

    model: str | None = None
    messages: Annotated[list[TaggedMessage], Field(min_length=1, max_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Positive | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: str | list[str] | None = None
    seed: Seed | None = None
    mode: Mode | None = None
    max_denoising_steps: Steps | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusing: bool | None = None
    user: str | None = None  # says who asks, which changes no answer

    def ignored(self, mode: Mode) -> list[str]:
        """The fields that were sent and have no meaning in a mode."""
        names = PENALTIES if mode in CAUSAL else (*SAMPLERS, *PENALTIES)
        return [name for name in names if getattr(self, name) is not None]

    def as_chat(self, mode: Mode) -> ChatRequest:
        """The same as a chat in a mode. Raises RequestError where a tag is missing."""
        text = self.messages[0].text
        for tag in self.TAGS:
            begin = text.find(f"<|{tag}|>")
            if begin < 0 or text.find(f"<|/{tag}|>", begin) < 0:
                raise bad(f"the message has no part between <|{tag}|> and <|/{tag}|>", "messages")
        wishes: dict[str, Any] = {name: getattr(self, name) for name in SAMPLERS if mode in CAUSAL}
        return ChatRequest.of(
            model=self.model,
            messages=[{"role": "user", "content": f"{self.TASK}\n\n{text}"}],
            max_tokens=self.max_tokens,
            max_completion_tokens=self.max_completion_tokens,
            stop=self.stop,
            seed=self.seed,
            mode=mode,
            max_denoising_steps=self.max_denoising_steps,
            stream=self.stream,
            stream_options=self.stream_options,
            diffusing=self.diffusing,
            **wishes,
        )


class EditRequest(TaggedRequest):
    """The body of /v1/edit/completions: what was viewed and edited, a file, and the part of it that is to be edited."""

    TAGS = ("current_file_content", "code_to_edit")
    TASK = (
        "Say how the code between <|code_to_edit|> and <|/code_to_edit|> reads after its author's next edit, going by "
        "what was viewed and edited before. Answer with all of that code and nothing else, without <|cursor|>."
    )


class ApplyRequest(TaggedRequest):
    """The body of /v1/apply/completions: code, and a snippet that says how it is to change."""

    TAGS = ("original_code", "update_snippet")
    TASK = (
        "Apply the update snippet to the original code. A comment about existing code stands for what stays as it is. "
        "Answer with the whole new code and nothing else."
    )
