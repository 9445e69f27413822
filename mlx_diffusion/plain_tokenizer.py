"""A tokenizer that its tokenizer.json describes completely, read by the tokenizers library alone.

Importing Transformers takes longer than the bundled checkpoint takes to answer, and where tokenizer_config.json says
nothing that changes ids or text it adds nothing. For every folder with anything more (Gemma's own tokenizer class is
more: Transformers rebuilds it) `PlainTokenizer.read` gives None, and the caller turns to Transformers.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_diffusion.plain_template import PlainTemplate

CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # two names of the class that takes tokenizer.json as it is
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
WITHOUT_EFFECT = ("backend", "clean_up_tokenization_spaces", "model_max_length")  # on what this package calls
KNOWN = {"tokenizer_class", "chat_template", "extra_special_tokens", *NAMED, *WITHOUT_EFFECT}
OTHER_FILES = ("special_tokens_map.json", "added_tokens.json", "additional_chat_templates")
SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
MOST_TOKENS = 100_000  # with more, Transformers looks whether the vocabulary is one whose pattern it mends


class PlainTokenizer:
    """The methods of a Transformers tokenizer that this package calls, named and answering as there.

    `transformers()` gives the Transformers tokenizer of the same folder, for what only that can do.
    """

    def __init__(
        self, tokenizer: Any, named: Mapping[str, str], chat_template: str | None, transformers: Callable[[], Any]
    ) -> None:
        self.bos_token = named.get("bos_token")
        self.bos_token_id = None if self.bos_token is None else tokenizer.token_to_id(self.bos_token)
        self.chat_template = chat_template
        self._tokenizer = tokenizer
        self._named = named
        self._transformers = transformers

    @classmethod
    def read(cls, folder: Path, transformers: Callable[[], Any]) -> "PlainTokenizer | None":
        """None where the folder has anything that needs Transformers; damage needs it too, for its error."""
        if any((folder / name).exists() for name in OTHER_FILES):
            return None
        from tokenizers import Tokenizer

        try:
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            text = (folder / "tokenizer.json").read_text(encoding="utf-8")
            if not _is_plain(config, json.loads(text)):
                return None
            tokenizer = Tokenizer.from_str(text)
            template_file = folder / "chat_template.jinja"
            template = template_file.read_text(encoding="utf-8") if template_file.exists() else None
        except Exception:  # the tokenizers library raises nothing narrower for a file that it cannot parse
            return None
        named = {key: config[key] for key in NAMED if config.get(key) is not None}
        return cls(tokenizer, named, config.get("chat_template") if template is None else template, transformers)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert not clean_up_tokenization_spaces
        return str(self._tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens))

    def convert_ids_to_tokens(self, token: int) -> str | None:
        piece: str | None = self._tokenizer.id_to_token(token)
        return piece

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        tokenize: bool,
        **variables: Any,
    ) -> str:
        assert not tokenize
        template = self._plain_template
        text = template and template.render(messages, tools, add_generation_prompt, **variables)
        if text is None:
            text = self._transformers().apply_chat_template(
                messages, tools=tools, add_generation_prompt=add_generation_prompt, tokenize=False, **variables
            )
        return str(text)

    @cached_property
    def _plain_template(self) -> "PlainTemplate | None":
        if self.chat_template is None:
            return None
        from mlx_diffusion.plain_template import PlainTemplate

        return PlainTemplate.compile(self.chat_template, self._named)


def _is_plain(config: dict[str, Any], file: dict[str, Any]) -> bool:
    """True if tokenizer_config.json only names special tokens that tokenizer.json has, and settings without effect."""
    special = {token["content"] for token in file["added_tokens"] if {**token, **SPECIAL} == token}
    named = [config[key] for key in NAMED if config.get(key) is not None]
    return (
        config.keys() <= KNOWN
        and config.get("tokenizer_class") in CLASSES
        and isinstance(config.get("chat_template", ""), str)
        and special.issuperset([*named, *config.get("extra_special_tokens", [])])
        and isinstance(config.get("extra_special_tokens", []), list)
        and file["truncation"] is None
        and file["padding"] is None
        and file["post_processor"] is not None
        and len(file["model"]["vocab"]) + len(file["added_tokens"]) <= MOST_TOKENS
    )
