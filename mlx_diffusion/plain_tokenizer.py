"""A tokenizer that its tokenizer.json describes completely, read by the tokenizers library alone.

Importing Transformers takes longer than the bundled checkpoint takes to answer, and where tokenizer_config.json says
nothing that changes ids or text it adds nothing. For every folder with anything more (Gemma's own tokenizer class is
more: Transformers rebuilds it) `PlainTokenizer.read` gives None, and the caller turns to Transformers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_diffusion.chat_template import one_line
from mlx_diffusion.errors import CheckpointError
from mlx_diffusion.template_files import ADDITIONAL

CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # two names of the class that takes tokenizer.json as it is
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
WITHOUT_EFFECT = ("backend", "clean_up_tokenization_spaces", "model_max_length")  # on what this package calls
KNOWN = {"tokenizer_class", "chat_template", "extra_special_tokens", *NAMED, *WITHOUT_EFFECT}
OTHER_FILES = ("special_tokens_map.json", "added_tokens.json", ADDITIONAL)
SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
MOST_TOKENS = 100_000  # with more, Transformers looks whether the vocabulary is one whose pattern it mends


class PlainTokenizer:
    """The methods of a Transformers tokenizer that this package calls, named and answering as there."""

    def __init__(self, tokenizer: Any, named: Mapping[str, str], chat_template: str | None) -> None:
        self.bos_token = named.get("bos_token")
        self.bos_token_id = None if self.bos_token is None else tokenizer.token_to_id(self.bos_token)
        self.chat_template = chat_template
        self.special_tokens_map = dict(named)
        self.backend_tokenizer = tokenizer

    @classmethod
    def read(cls, folder: Path) -> "PlainTokenizer | None":
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
        return cls(tokenizer, named, config.get("chat_template") if template is None else template)

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """The added tokens by their ids."""
        added: Mapping[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        return added

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: list[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert not clean_up_tokenization_spaces
        return str(self.backend_tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens))

    def convert_ids_to_tokens(self, token: int) -> str | None:
        piece: str | None = self.backend_tokenizer.id_to_token(token)
        return piece


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


def read_with_transformers(folder: Path) -> Any:
    """The Transformers tokenizer of a folder. Raises CheckpointError."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except BaseException as error:  # the tokenizers library raises nothing narrower, and panics are no Exceptions
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = one_line(error)
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({reason}); download its files again") from error
