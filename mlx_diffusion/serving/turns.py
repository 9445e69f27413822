"""The model's turn as a chat interface shows it: text of the answer, thoughts, and calls of tools, from final tokens.

What a call's markers hold is read as a call; where that fails it is text of the answer, as the model wrote it. Knows
nothing of any interface's own form.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_diffusion.channels import Channels, markers_of
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import Settings
from mlx_diffusion.text_stream import StoppedDecoding, StopText, TextStream
from mlx_diffusion.tokenizer import Tokenizer

BEGIN, END = "<|tool_call>", "<tool_call|>"


@dataclass(frozen=True)
class ToolCall:
    """A function that the model calls, with its arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Thought:
    """Some text of the model's thoughts."""

    text: str


Piece = str | Thought | ToolCall


class Turns:
    """Reads the turns of one model; `begin` a reader for each."""

    def __init__(self, model: DiffusionGemma, tokenizer: Tokenizer) -> None:
        self._pad, self._tokenizer = model.config.pad_token_id, tokenizer
        self._markers = markers_of(tokenizer)

    def begin(self, prompt: Sequence[int], settings: Settings) -> TurnReader:
        """A reader of the turn that goes on from a prompt."""
        hidden = {self._pad, *settings.eos_token_id}

        def decoding() -> StoppedDecoding:
            return StoppedDecoding(StopText(TextStream(self._tokenizer, hidden), settings.stop))

        return TurnReader(self._tokenizer, self._markers, Channels(self._markers, decoding, prompt), hidden)

    def shown(self, tokens: Sequence[int], settings: Settings) -> str:
        """The text of a draft: up to its first stop token, and without markers."""
        end = next((index for index, token in enumerate(tokens) if token in settings.eos_token_id), len(tokens))
        return self._tokenizer.decode([t for t in tokens[:end] if t != self._pad and t not in self._markers])


class TurnReader:
    """One turn: takes final tokens, gives the pieces that are certain."""

    def __init__(self, tokenizer: Tokenizer, markers: Mapping[int, str], channels: Channels, hidden: set[int]) -> None:
        self._tokenizer, self._markers, self._channels, self._hidden = tokenizer, markers, channels, hidden
        self._call: list[int] = []  # the tokens of a call, its first marker among them
        self.thought_tokens = 0  # so far

    def push(self, tokens: Sequence[int], *, last: bool = False) -> list[Piece]:
        """Take more tokens; with `last`, give everything."""
        pieces: list[Piece] = []
        for token in tokens:
            self.thought_tokens += self._channels.kind == "thought"
            marker = self._markers.get(token)
            if not self._call:
                self._take([token], pieces, last=False)
                self._call = [token] if marker == BEGIN else []
                continue
            self._call.append(token)
            self._channels.push([token])  # which follow the markers; the text is that of the call
            if marker == END:
                pieces += self._called()
        if last and self._call:
            pieces += self._called()
        else:
            self._take([], pieces, last=last)
        return _joined(pieces)

    def _take(self, tokens: Sequence[int], pieces: list[Piece], *, last: bool) -> None:
        for part in self._channels.push(tokens, last=last):
            if part.kind == "answer":
                pieces.append(part.text)
            elif part.kind == "thought":
                pieces.append(Thought(part.text))

    def _called(self) -> list[Piece]:
        """What the tokens of a call say, which are then done with."""
        raw = self._tokenizer.decode([token for token in self._call if token not in self._hidden])
        self._call = []
        return list(read_calls(raw)) or ([raw] if raw else [])


def read_calls(raw: str) -> list[ToolCall]:
    """The calls between markers, `call:name{key:<|"|>value<|"|>}`; none where the text is no such thing."""
    said = raw.removeprefix(BEGIN).removesuffix(END).strip()
    if not (raw.startswith(BEGIN) and raw.endswith(END) and said.startswith("call:") and said.endswith("}")):
        return []
    from mlx_lm.tool_parsers.gemma4 import parse_tool_call

    try:
        found = parse_tool_call(said)
        calls = [ToolCall(call["name"], call["arguments"]) for call in (found if isinstance(found, list) else [found])]
        for call in calls:
            json.dumps(call.arguments, allow_nan=False)  # as all interfaces send them
    except (ValueError, RecursionError):
        return []
    return calls


def make_ready_for_calls() -> None:
    """Import what reads calls: a second's work, once, which callers without tools need not wait for."""
    importlib.import_module("mlx_lm.tool_parsers.gemma4")


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The same with neighbouring texts of one kind put together."""
    joined: list[Piece] = []
    for piece in pieces:
        before = joined[-1] if joined else None
        if isinstance(piece, str) and isinstance(before, str):
            joined[-1] = before + piece
        elif isinstance(piece, Thought) and isinstance(before, Thought):
            joined[-1] = Thought(before.text + piece.text)
        else:
            joined.append(piece)
    return joined


def arguments_text(call: ToolCall) -> str:
    """A call's arguments as JSON."""
    return json.dumps(dict(call.arguments), ensure_ascii=False)
