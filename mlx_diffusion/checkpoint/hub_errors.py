"""Turns the errors of the Hub into one line each: licence, name, offline mode, network.

Knows nothing of what was asked of the Hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlx_diffusion.errors import CheckpointError, DiffusionError

TRY_AGAIN = "try again"


def http_error() -> type[Exception]:
    """The base error of huggingface_hub's HTTP client, which differs between its releases (requests, httpx)."""
    from huggingface_hub import errors as hub

    base: type[Exception] = hub.HTTPError  # type: ignore[attr-defined]
    return base


@contextmanager
def hub_errors(
    repo_id: str, remedy: str = TRY_AGAIN, revision: str | None = None, work: str = "download"
) -> Iterator[None]:
    """Raise CheckpointError for whatever huggingface_hub raises; `remedy` is advice for errors that may pass.

    Nothing of this library's own but its errors is raised within: a server's answers make huggingface_hub, its client
    and the system's network raise what nobody has listed, so that what is not named here counts as a failed request.
    """
    from huggingface_hub import errors as hub

    try:
        yield
    except hub.GatedRepoError:
        raise CheckpointError(
            f"{repo_id}: the Hub asks you to accept its licence first; do so on https://huggingface.co/{repo_id} "
            "and run `hf auth login`"
        ) from None
    except hub.RevisionNotFoundError:
        raise CheckpointError(f"{repo_id} has no revision {revision}; give a branch, tag or commit of it") from None
    except (hub.RepositoryNotFoundError, hub.HFValidationError):
        raise CheckpointError(
            f"{repo_id}: no such folder, and no such model on the Hub (for a private one run `hf auth login`)"
        ) from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
        raise CheckpointError(
            f"{repo_id}: not in the Hub's cache, and the Hub cannot be reached (offline mode, no network, or it is "
            f"down); connect once to download it, or give a folder{'' if remedy == TRY_AGAIN else f'; {remedy}'}"
        ) from None
    except DiffusionError:
        raise
    except Exception as error:
        raise CheckpointError(f"{repo_id}: the {work} failed ({_first_line(error)}); {remedy}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
