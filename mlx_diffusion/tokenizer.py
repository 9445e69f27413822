"""Text to tokens and back: the checkpoint's own tokenizer and chat template, and text that arrives block by block.

Knows nothing of models, canvases or options. Files are read by Transformers, as in mlx-lm, or directly where
tokenizer.json says everything (see `plain_tokenizer`); no code of a checkpoint is ever run.
"""

import operator
import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, overload

import mlx.core as mx
import numpy as np

from mlx_diffusion.errors import CheckpointError, PromptError
from mlx_diffusion.plain_tokenizer import PlainTokenizer

Message = Mapping[str, Any]
SinglePrompt = str | Sequence[Message] | Sequence[int] | mx.array | np.ndarray
Prompt = SinglePrompt | Sequence[SinglePrompt]
BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    """A checkpoint's tokenizer. Special tokens are text like any other in both directions."""

    def __init__(self, backend: Any):
        self._backend = backend

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text."""
        return cast(int | None, self._backend.bos_token_id)

    @property
    def has_chat_template(self) -> bool:
        """True if the checkpoint can turn messages into a prompt."""
        return self._backend.chat_template is not None

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids of `text`. By default the begin token is put first unless the text starts with it, as in mlx-lm."""
        if add_special_tokens is None:
            bos = self._backend.bos_token
            add_special_tokens = bos is None or not text.startswith(bos)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(f"the prompt is not valid Unicode text ({error}); pass it as UTF-8") from error
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens))

    @overload
    def apply_chat_template(
        self, messages: Sequence[Message], *, tools: Sequence[Message] | None = None,
        add_generation_prompt: bool = False, tokenize: Literal[True] = True, **variables: Any,
    ) -> list[int]: ...  # fmt: skip

    @overload
    def apply_chat_template(
        self, messages: Sequence[Message], *, tools: Sequence[Message] | None = None,
        add_generation_prompt: bool = False, tokenize: Literal[False], **variables: Any,
    ) -> str: ...  # fmt: skip

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        **variables: Any,
    ) -> list[int] | str:
        """Messages as token ids, or as text, by the checkpoint's own chat template (arguments as in mlx-lm).

        `add_generation_prompt` opens the model's turn; `variables` are the template's own (`enable_thinking`, …).
        """
        if not self.has_chat_template:
            raise PromptError("this checkpoint has no chat template for messages; pass the prompt as text or as ids")
        from jinja2 import TemplateError

        try:
            text = self._backend.apply_chat_template(
                [dict(message) for message in messages],
                tools=None if tools is None else [dict(tool) for tool in tools],
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **variables,
            )
        except (TemplateError, TypeError) as error:
            raise PromptError(
                f"the checkpoint's chat template does not take these messages ({error}); "
                "give each a role that it knows and a content that is text"
            ) from error
        return self.encode(text, add_special_tokens=False) if tokenize else text

    def encode_prompt(self, prompt: SinglePrompt, vocab_size: int) -> list[int]:
        """Token ids of one prompt in any of its forms, all of them within the vocabulary.

        Text is used as it is. Messages go through the chat template, which also opens the model's turn. Ids stay as
        they are. Raises `PromptError`.
        """
        if isinstance(prompt, str):
            if not prompt:
                raise PromptError("the prompt is empty; write something for the model to answer")
            tokens = self.encode(prompt)
        elif isinstance(prompt, mx.array | np.ndarray):
            if prompt.ndim != 1 or not prompt.size:
                raise PromptError(
                    f"the prompt is an array of shape {prompt.shape}; pass one row of ids, or a list of rows"
                )
            tokens = _as_ids(list(np.array(prompt)))
        elif isinstance(prompt, Sequence) and prompt and all(isinstance(part, Mapping) for part in prompt):
            tokens = self.apply_chat_template(cast(Sequence[Message], prompt), add_generation_prompt=True)
        elif isinstance(prompt, Sequence):
            tokens = _as_ids(prompt)
        else:
            raise PromptError(f"the prompt is of type {type(prompt).__name__}; pass text, messages or token ids")
        if not tokens:
            raise PromptError("the prompt is empty; write something for the model to answer")
        for token in tokens:
            if not 0 <= token < vocab_size:
                raise PromptError(f"the prompt has token id {token}; the vocabulary has ids 0 to {vocab_size - 1}")
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special tokens included."""
        text = self._backend.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return cast(str, text)

    def is_byte(self, token: int) -> bool:
        """True for a token that stands for one byte of a character without a token of its own."""
        piece = self._backend.convert_ids_to_tokens(token)
        return piece is not None and BYTE_PIECE.fullmatch(piece) is not None


def split_batch(prompt: Prompt) -> tuple[list[SinglePrompt], bool]:
    """The prompts in `prompt`, and True if it was a list of prompts rather than a single one."""
    if (
        isinstance(prompt, list | tuple)
        and prompt
        and isinstance(prompt[0], str | list | tuple | mx.array | np.ndarray)
    ):
        return list(cast(Sequence[SinglePrompt], prompt)), True
    return [cast(SinglePrompt, prompt)], False


def _as_ids(tokens: Sequence[Any]) -> list[int]:
    for token in tokens:
        if isinstance(token, bool) or not hasattr(token, "__index__"):
            raise PromptError(f"the prompt has {token!r} among its token ids; pass whole numbers")
    return [operator.index(token) for token in tokens]


class TextStream:
    """The text of a token sequence that arrives in parts: the parts joined are the text of the whole.

    Text that later tokens may still change is held back: a run of byte tokens, which make characters only together, and
    a character that a byte-level tokenizer has cut in two. `hidden` tokens (stop tokens, padding) give no text.
    """

    def __init__(self, tokenizer: Tokenizer, hidden: Collection[int] = ()):
        self._tokenizer = tokenizer
        self._hidden = frozenset(hidden)
        self._tokens: list[int] = []
        self._given = 0  # characters

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """Add tokens and return the text that is now certain; with `last`, also what was held back."""
        self._tokens += [token for token in tokens if token not in self._hidden]
        certain = len(self._tokens)
        while not last and certain and self._tokenizer.is_byte(self._tokens[certain - 1]):
            certain -= 1
        text = self._tokenizer.decode(self._tokens[:certain])
        if not last:
            text = text.rstrip(REPLACEMENT)
        new = text[self._given :]
        self._given += len(new)
        return new


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of the checkpoint in `folder`. Raises `CheckpointError` when it is missing or damaged."""
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(
            f"{folder}: no tokenizer.json or tokenizer.model; copy the tokenizer from the original checkpoint"
        )
    plain = PlainTokenizer.read(folder, partial(_transformers_tokenizer, folder))
    return Tokenizer(_transformers_tokenizer(folder) if plain is None else plain)


def _transformers_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing narrower for a file that it cannot parse
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({reason}); download its files again") from error
