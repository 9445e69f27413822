"""The soak of the server at a size for every day: nothing stays behind, and who has gone takes part in no pass."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starlette")

from soak import soak, tiny_model


def test_nothing_stays_behind_requests_over_the_application(tmp_path: Path) -> None:
    found = soak(tiny_model(tmp_path), 20, 6)
    assert found["answered"] == 14 and found["left"] == 6 and found["refused"] == 0
    assert found["rows behind"] == 0 and found["rows in passes after they were dropped"] == 0
