"""The places where checkpoints keep their chat templates, and the choice among several of them.

Knows nothing of what a template says.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import CheckpointError, PromptError
from mlx_diffusion.json_files import read_json

ADDITIONAL = "additional_chat_templates"  # of templates beside chat_template.jinja, each named as its file
# Where older repositories keep what the tokenizer's own files lack.
OTHER_PLACES = ("chat_template.json", "processor_config.json", "preprocessor_config.json")


def find_templates(folder: Path, of_tokenizer: Any) -> dict[str, str]:
    """The templates of the checkpoint in `folder`, by name: those that its tokenizer has read, else of other files."""
    if of_tokenizer:
        return templates_by_name(of_tokenizer, str(folder))
    for name in OTHER_PLACES:
        path = folder / name
        found = read_json(path).get("chat_template") if path.is_file() else None
        if found:
            return templates_by_name(found, str(path))
    return {}


def templates_by_name(stored: Any, where: str = "the tokenizer") -> dict[str, str]:
    """One template (named "default"), a dict of templates, or a list of them. Raises CheckpointError."""
    if not stored:
        return {}
    if isinstance(stored, str):
        return {"default": stored}
    if isinstance(stored, list):
        pairs = [(entry.get("name"), entry.get("template")) for entry in stored if isinstance(entry, Mapping)]
        stored = dict(pairs) if len(pairs) == len(stored) else None
    if isinstance(stored, Mapping) and all(isinstance(part, str) for pair in stored.items() for part in pair):
        return dict(stored)
    raise CheckpointError(f"{where}: chat_template is neither text nor named templates; copy it from the original")


def choose_template(templates: Mapping[str, str], with_tools: bool) -> str:
    """The template for a conversation, as Transformers chooses. Raises PromptError."""
    for name in ("tool_use", "default") if with_tools else ("default",):
        if name in templates:
            return templates[name]
    if not templates:
        raise PromptError("this checkpoint has no chat template for messages; pass the prompt as text or as ids")
    raise PromptError(
        f"this checkpoint has chat templates named {', '.join(sorted(templates))}, and none of them is the default; "
        "name one with chat_template="
    )
