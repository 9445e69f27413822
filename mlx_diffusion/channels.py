"""Splits final tokens, as they arrive, into the text of answer, thoughts and tool calls.

The markers of DiffusionGemma's chat template are tokens of their own; text that only spells one is text like any other,
and nothing of it is lost. Knows nothing of how the parts are shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mlx_diffusion.tokenizer import Tokenizer

Kind = Literal["answer", "thought", "tool"]

LEADS_TO: dict[str, Kind] = {
    "<|channel>": "thought", "<channel|>": "answer", "<|tool_call>": "tool", "<tool_call|>": "answer",
    "<|turn>": "answer", "<turn|>": "answer",
}  # fmt: skip
WITHOUT_TEXT = ("<|think|>", "<|tool>", "<tool|>", "<|tool_response>", "<tool_response|>", '<|"|>', "<bos>", "<eos>",
                "<pad>")  # fmt: skip
MARKERS = (*LEADS_TO, *WITHOUT_TEXT)


class Decoding(Protocol):
    """The text of tokens that arrive in parts, as a `TextStream` gives it."""

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """Add tokens; the text that is now certain, with `last` all of it."""


@dataclass(frozen=True)
class TextPart:
    """Some text, and its kind."""

    kind: Kind
    text: str


class Channels:
    """The kind of text at the current place in the model's turn.

    `markers` are the ids of the markers that the vocabulary has, `decoding` begins a text, and `prompt` is what the
    turn goes on from: a template may leave a thought open in it.
    """

    def __init__(
        self, markers: Mapping[int, str], decoding: Callable[[], Decoding], prompt: Sequence[int] = ()
    ) -> None:
        self.kind: Kind = "answer"
        self._markers = markers
        self._decoding = decoding
        self._text = decoding()
        self._naming = False  # a channel begins with a line that names it
        leading = [index for index, token in enumerate(prompt) if markers.get(token) in LEADS_TO]
        self.push(prompt[leading[-1] :] if leading else (), last=True)

    def push(self, tokens: Sequence[int], *, last: bool = False) -> list[TextPart]:
        """Take more tokens and give all text that is certain; with `last`, everything."""
        parts: list[TextPart] = []
        begin = 0
        for index, token in enumerate(tokens):
            if token not in self._markers:
                continue
            self._take(self._text.push(tokens[begin:index], last=True), parts)
            begin = index + 1
            self._text = self._decoding()
            self.kind = kind_after(self.kind, self._markers[token])
            self._naming = self._markers[token] == "<|channel>"
        self._take(self._text.push(tokens[begin:], last=last), parts)
        if last:
            self._text = self._decoding()
        return parts

    def _take(self, text: str, parts: list[TextPart]) -> None:
        if self._naming:
            _, newline, text = text.partition("\n")
            self._naming = not newline
        if text:
            parts.append(TextPart(self.kind, text))


def kind_after(kind: Kind, marker: str) -> Kind:
    """The kind of the text after a marker."""
    return LEADS_TO.get(marker, kind)


def markers_of(tokenizer: Tokenizer) -> dict[int, str]:
    """The markers that are one token in this vocabulary, by their ids."""
    encoded = {marker: tokenizer.encode(marker, add_special_tokens=False) for marker in MARKERS}
    return {ids[0]: marker for marker, ids in encoded.items() if len(ids) == 1 and tokenizer.decode(ids) == marker}
