"""A checkpoint's folder as mlx-vlm's server can compare with: the same weights and the same words, told in its way.

On a CPU it has no products of experts in bfloat16, and it hands texts to chat templates in parts, which some templates
take for lists. Knows nothing of servers.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from mlx_diffusion.checkpoint.weight_files import weight_files
from mlx_diffusion.device import on_cpu

TEMPLATE = "chat_template.jinja"
JOINED = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
    {%- set parts = message['content'] -%}
    {%- set text = parts if parts is string else parts | map(attribute='text') | join -%}
    {%- set flat.messages = flat.messages + [dict(message, content=text)] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


def lay_out_for_peer(folder: Path, place: Path) -> None:
    """Fill an empty folder: links to the checkpoint's files, and new ones where the peer needs others."""
    weights = {file.name for file in weight_files(folder)} if on_cpu() else set()
    for file in folder.iterdir():
        if file.name in weights:
            stored = mx.load(str(file))
            assert isinstance(stored, dict)
            wide = {name: _wide(array) for name, array in stored.items()}
            mx.save_safetensors(str(place / file.name), wide, {"format": "mlx"})
        elif file.name != TEMPLATE:
            (place / file.name).symlink_to(file.resolve())
        else:
            (place / TEMPLATE).write_text(JOINED + file.read_text())


def _wide(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array
