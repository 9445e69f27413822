"""Asks the Hub about a repository's files without fetching them: their sizes, and the headers of its weight files.

Knows nothing of what the tensors mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub  # loads only the parts that are used

from mlx_diffusion.checkpoint.headers import HEADER_LIMIT, LENGTH_BYTES, StoredTensor, parse_header
from mlx_diffusion.checkpoint.hub_errors import TRY_AGAIN, http_error, hub_errors
from mlx_diffusion.checkpoint.weight_files import main_weight_names
from mlx_diffusion.display import count_of
from mlx_diffusion.errors import CheckpointError

TIMEOUT = 10.0  # seconds without an answer
CONNECTIONS = 8  # at once


def hub_weight_bytes(repo_id: str) -> int | None:
    """The size of a repository's weight files; None where the Hub cannot be asked."""
    try:
        with hub_errors(repo_id):
            sizes = hub_sizes(repo_id)
    except CheckpointError:
        return None  # opening the checkpoint will say what is wrong, or find it in the Hub's cache
    return None if sizes is None else sum(sizes[name] for name in main_weight_names(sizes))


def hub_sizes(repo_id: str, revision: str | None = None) -> dict[str, int] | None:
    """The size of each file of a repository; None where the Hub cannot be reached.

    Raises what huggingface_hub raises for an answer of the Hub's, see `hub_errors`.
    """
    try:
        api = huggingface_hub.HfApi()
        files = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT).siblings or []
    except (huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.HFValidationError):
        raise
    except (http_error(), OSError, ValueError):  # no answer, or one that is not the Hub's, but a portal's
        return None
    return {file.rfilename: file.size or 0 for file in files}


def hub_headers(
    repo_id: str, revision: str | None, sizes: Mapping[str, int], remedy: str = TRY_AGAIN
) -> list[StoredTensor]:
    """The tensors of these files, which have these sizes, file by file. Raises CheckpointError.

    Not one byte of the weights behind a header is fetched.
    """
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        headers = threads.map(lambda name: _header(repo_id, revision, name, sizes[name], remedy), sizes)
        return [entry for header in headers for entry in header]


def _header(repo_id: str, revision: str | None, name: str, size: int, remedy: str) -> list[StoredTensor]:
    where = f"{repo_id}/{name}"

    def part(first: int, end: int) -> bytes:
        with hub_errors(repo_id, remedy, revision):
            return _range(repo_id, revision, name, first, end)

    length = int.from_bytes(part(0, min(size, LENGTH_BYTES)), "little")
    if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, HEADER_LIMIT):
        raise CheckpointError(f"{where} is truncated or no safetensors file ({count_of(size, 'byte')})")
    return parse_header(part(LENGTH_BYTES, LENGTH_BYTES + length), name, size, where=where)


def _range(repo_id: str, revision: str | None, name: str, first: int, end: int) -> bytes:
    """The bytes first … end - 1 of a file, and no more of it."""
    if first == end:
        return b""
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url = huggingface_hub.hf_hub_url(repo_id, name, revision=revision)
    headers = {**build_hf_headers(), "Range": f"bytes={first}-{end - 1}", "Accept-Encoding": "identity"}
    with huggingface_hub.get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        content = b""
        for part in response.iter_bytes() if response.status_code == 206 else ():
            content += part
            if len(content) > end - first:
                break
    if len(content) != end - first:
        raise CheckpointError(f"{repo_id}/{name}: the server does not answer requests for a part of a file")
    return content
