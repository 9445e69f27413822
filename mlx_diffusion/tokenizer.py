"""Text to tokens and back: the checkpoint's own tokenizer and chat template.

Knows nothing of models, canvases or options. Files are read by Transformers, as in mlx-lm, or directly where
tokenizer.json says everything (see `plain_tokenizer`); no code of a checkpoint is ever run.
"""

import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, overload

import mlx.core as mx
import numpy as np

from mlx_diffusion.chat_template import ChatTemplate, one_line, plain_data
from mlx_diffusion.errors import CheckpointError, PromptError
from mlx_diffusion.forged_tokens import ControlTokens, encode_as_text
from mlx_diffusion.messages import Message, check_messages, check_tools, fit_template
from mlx_diffusion.plain_tokenizer import PlainTokenizer, read_with_transformers
from mlx_diffusion.processes import foreign_work
from mlx_diffusion.template_files import ADDITIONAL, choose_template, find_templates, templates_by_name

SinglePrompt = str | Sequence[Message] | Sequence[int] | mx.array | np.ndarray
Prompt = SinglePrompt | Sequence[SinglePrompt]
SUFFIXES = (".json", ".jinja", ".model", ".txt")  # of the files that a tokenizer may be read from
BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Tokenizer:
    """A checkpoint's tokenizer. Special tokens are text like any other in both directions, except within messages.

    `templates` are the checkpoint's chat templates by name, where they are not the backend's own.
    """

    def __init__(self, backend: Any, templates: Mapping[str, str] | None = None):
        self._backend = backend
        self._templates = templates_by_name(backend.chat_template) if templates is None else dict(templates)
        self._chat_templates: dict[str, tuple[ChatTemplate, ControlTokens]] = {}

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text."""
        return cast(int | None, self._backend.bos_token_id)

    @property
    def has_chat_template(self) -> bool:
        """True if the checkpoint can turn messages into a prompt."""
        return bool(self._templates)

    @foreign_work()
    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids of `text`. By default the begin token is put first unless the text starts with it, as in mlx-lm."""
        if add_special_tokens is None:
            bos = self._backend.bos_token
            add_special_tokens = bos is None or not text.startswith(bos)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(f"the prompt is not valid Unicode text ({error}); pass it as UTF-8") from error
        try:
            return list(self._backend.encode(text, add_special_tokens=add_special_tokens))
        except BaseException as error:  # a panic of the tokenizers library is no Exception
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise PromptError(f"the checkpoint's tokenizer fails on this text ({one_line(error)})") from error
            raise

    @foreign_work()
    def encode_text(self, text: str) -> list[int]:
        """Token ids of `text` alone: no begin token, and a control token in it is text. Raises `PromptError`."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(f"the text is not valid Unicode ({error}); pass it as UTF-8") from error
        return encode_as_text(self._backend, text) if text else []

    @overload
    def apply_chat_template(
        self, messages: Sequence[Message], *, tools: Sequence[Message] | None = None,
        add_generation_prompt: bool = False, tokenize: Literal[True] = True, chat_template: str | None = None,
        sanitize_control_tokens: bool = True, **variables: Any,
    ) -> list[int]: ...  # fmt: skip

    @overload
    def apply_chat_template(
        self, messages: Sequence[Message], *, tools: Sequence[Message] | None = None,
        add_generation_prompt: bool = False, tokenize: Literal[False], chat_template: str | None = None,
        sanitize_control_tokens: bool = True, **variables: Any,
    ) -> str: ...  # fmt: skip

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        chat_template: str | None = None,
        sanitize_control_tokens: bool = True,
        **variables: Any,
    ) -> list[int] | str:
        """Messages as token ids, or as text, by the checkpoint's own chat template (arguments as in mlx-lm).

        `add_generation_prompt` opens the model's turn; `variables` are the template's own (`enable_thinking`, …).
        `chat_template` is the name of one of several templates, or a template.

        What messages, tools and variables say is text: a control token that they spell ("<turn|>") is encoded as its
        characters, and the template's own alone structure the conversation. `sanitize_control_tokens=False`, as in
        Transformers, makes control tokens of them all; so does encoding the text that `tokenize=False` gives.
        Raises `PromptError`.
        """
        template, control_tokens = self._chat_template(chat_template, tools)

        def render(given: Any) -> str:
            messages, tools, variables = given
            return template.render(messages, tools, add_generation_prompt, **variables)

        fitting = fit_template(
            check_messages(messages), check_tools(tools), lambda messages, tools: render((messages, tools, variables))
        )
        given = (*fitting, variables)
        if not tokenize:
            return render(given)
        if not sanitize_control_tokens:
            return self.encode(render(given), add_special_tokens=False)
        rendered = control_tokens.render(render, plain_data(given))
        ids: list[int] = []
        last = 0
        for start, end in rendered.forged:
            ids += self.encode(rendered.text[last:start], add_special_tokens=False) if start > last else []
            ids += encode_as_text(self._backend, rendered.text[start:end])
            last = end
        return [*ids, *self.encode(rendered.text[last:], add_special_tokens=False)]

    def _chat_template(self, wanted: str | None, tools: Sequence[Message] | None) -> tuple[ChatTemplate, ControlTokens]:
        if wanted is None:
            source = choose_template(self._templates, tools is not None)
        else:
            source = self._templates.get(wanted, wanted)
        if source not in self._chat_templates:
            template = ChatTemplate(source, self._backend.special_tokens_map)
            added = self._backend.added_tokens_decoder.values()
            control = {
                token.content
                for token in added
                if token.special or (token.content in template.literals and not token.content.isspace())
            }
            self._chat_templates[source] = template, ControlTokens(control)
        return self._chat_templates[source]

    def encode_prompt(
        self,
        prompt: SinglePrompt,
        vocab_size: int,
        tools: Sequence[Message] | None = None,
        enable_thinking: bool | None = None,
    ) -> list[int]:
        """Token ids of one prompt in any of its forms, all of them within the vocabulary.

        Text is used as it is. Messages go through the chat template, which also opens the model's turn. Ids stay as
        they are. `tools` and `enable_thinking` are for the template. Raises `PromptError`.
        """
        of_messages = isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], Mapping)
        if (tools is not None or enable_thinking is not None) and not of_messages:
            raise PromptError("tools and enable_thinking are for the chat template; pass the prompt as messages")
        if isinstance(prompt, str):
            if not prompt:
                raise PromptError("the prompt is empty; write something for the model to answer")
            tokens = self.encode(prompt)
        elif isinstance(prompt, bytes | bytearray | memoryview):
            raise PromptError("the prompt is bytes; decode them to text first, as in prompt.decode()")
        elif isinstance(prompt, Mapping):
            raise PromptError("the prompt is a single dict; pass a list of messages, as in [message]")
        elif isinstance(prompt, mx.array | np.ndarray):
            if prompt.ndim != 1 or not prompt.size:
                raise PromptError(
                    f"the prompt is an array of shape {prompt.shape}; pass one row of ids, or a list of rows"
                )
            tokens = _as_ids(list(np.array(prompt)))
        elif of_messages:
            variables: dict[str, Any] = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
            messages = cast(Sequence[Message], prompt)
            tokens = self.apply_chat_template(messages, tools=tools, add_generation_prompt=True, **variables)
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

    @foreign_work()
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special tokens included."""
        text = self._backend.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return cast(str, text)

    def as_json(self) -> str:
        """The tokenizer as its tokenizer.json, without cuts or padding. Raises CheckpointError where it has none."""
        from tokenizers import Tokenizer as Json

        backend = getattr(self._backend, "backend_tokenizer", None)
        if not isinstance(backend, Json):
            raise CheckpointError("the tokenizer has no tokenizer.json; take one with the checkpoint that has")
        own = Json.from_str(backend.to_str())
        own.no_padding()
        own.no_truncation()
        return own.to_str()

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


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of the checkpoint in `folder`. Raises `CheckpointError` when it is missing or damaged."""
    folder = Path(folder)
    for file in (*folder.glob("*"), *folder.glob(f"{ADDITIONAL}/*")):
        if file.suffix in SUFFIXES and file.exists() and not (file.is_file() or file.is_dir()):
            raise CheckpointError(f"{file} is no regular file; copy the tokenizer from the original checkpoint")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(
            f"{folder}: no tokenizer.json or tokenizer.model; copy the tokenizer from the original checkpoint"
        )
    backend = PlainTokenizer.read(folder) or read_with_transformers(folder)
    return Tokenizer(backend, find_templates(folder, backend.chat_template))
