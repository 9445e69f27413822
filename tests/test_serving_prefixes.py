"""A prefix store in a folder: it outlives the server, whole or absent, for one server and one model at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from served import MODEL, PREFIX_BYTES, Served, say, served

from mlx_diffusion.engine.prefix_store import PrefixStore
from mlx_diffusion.errors import OptionError
from mlx_diffusion.serving.prefix_folder import KeptOnDisk, PrefixFolder

QUESTION = say("Sort: " + " ".join(f"oak{number}" for number in range(20)))


def cached(running: Served) -> int:
    usage = running.post(messages=QUESTION, max_tokens=8).json()["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def test_what_was_encoded_is_there_after_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    with served(folder=folder, max_denoising_steps=2) as running:
        assert cached(running) == 0
    (file,) = folder.iterdir()
    with served(folder=folder, max_denoising_steps=2) as running:
        assert cached(running) > 0
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    (folder / f".{file.name}.0123abcd.part.safetensors").write_bytes(whole[:100])
    with served(folder=folder, max_denoising_steps=2) as running:
        assert cached(running) == 0 and any("no file of saved prefixes" in line for line in running.log)
    assert list(folder.iterdir()) == [file] and file.stat().st_mode & 0o077 == 0


def test_it_is_written_where_something_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PrefixStore(MODEL, PREFIX_BYTES)
    written = list[Path]()
    monkeypatch.setattr(store, "save", written.append)
    kept = KeptOnDisk(store, PrefixFolder(tmp_path), print)
    kept.read()
    waits = [kept.waits]
    for _ in range(2):
        store.changes += 1
        waits.append(kept.waits)
        kept.write()
        kept.write()
    kept.close()
    assert waits[:2] == [None, 0] and waits[2] and len(written) == 2


def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    with served(folder=tmp_path), pytest.raises(OptionError, match="another server keeps its prefixes"):
        PrefixFolder(tmp_path)
