"""Splits final text, as it arrives, into answer, thoughts and tool calls, and removes the markers between them.

Follows the markers of DiffusionGemma's chat template in text that comes in parts: a marker that straddles two parts is
held back until it is whole. Knows nothing of tokens or of how the parts are shown.
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["answer", "thought", "tool"]

OPENS: dict[str, Kind] = {"<|channel>": "thought", "<|tool_call>": "tool"}
CLOSES = ("<channel|>", "<tool_call|>")
DROPPED = (
    "<|turn>", "<turn|>", "<|think|>", "<|tool>", "<tool|>", "<|tool_response>", "<tool_response|>", '<|"|>',
    "<bos>", "<eos>", "<pad>",
)  # fmt: skip
MARKERS = (*OPENS, *CLOSES, *DROPPED)
_MARKER = re.compile("|".join(map(re.escape, MARKERS)))


@dataclass(frozen=True)
class TextPart:
    """Some text, and its kind."""

    kind: Kind
    text: str


class Channels:
    """The kind of text at the current place in the model's turn."""

    def __init__(self) -> None:
        self.kind: Kind = "answer"
        self._held = ""
        self._naming = False  # a channel begins with a line that names it

    def push(self, text: str, *, last: bool = False) -> list[TextPart]:
        """Take more text and give all that is certain; with `last`, everything."""
        text = self._held + text
        certain = len(text) if last else len(text) - _unfinished(text)
        text, self._held = text[:certain], text[certain:]
        parts: list[TextPart] = []
        position = 0
        for marker in _MARKER.finditer(text):
            self._take(text[position : marker.start()], parts)
            position = marker.end()
            self.kind = kind_after(self.kind, marker[0])
            self._naming = self.kind == "thought"
        self._take(text[position:], parts)
        return parts

    def _take(self, text: str, parts: list[TextPart]) -> None:
        if self._naming:
            _, newline, text = text.partition("\n")
            self._naming = not newline
        if text:
            parts.append(TextPart(self.kind, text))


def kind_after(kind: Kind, marker: str) -> Kind:
    """The kind of the text after a marker."""
    if marker in CLOSES:
        return "answer"
    return OPENS.get(marker, kind)


def _unfinished(text: str) -> int:
    """The number of characters at the end that may begin a marker."""
    longest = max(map(len, MARKERS)) - 1
    for count in range(min(longest, len(text)), 0, -1):
        if any(marker.startswith(text[-count:]) for marker in MARKERS):
            return count
    return 0
