"""Requests for gaps: what they ask of the sampler comes to it by every route."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from served import LIMITS, in_process

from mlx_diffusion.filling.infilling import stream_infill

gaps = pytest.importorskip("mlx_diffusion.serving.gaps")


def test_every_route_hands_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def noted(*arguments: Any, config: Any, **others: Any) -> Any:
        found.append((config.max_denoising_steps, config.seed, config.max_tokens, config.mode))
        return stream_infill(*arguments, config=config, **others)

    monkeypatch.setattr(gaps, "stream_infill", noted)
    sides = {"prompt": "fig ", "suffix": " oak", "model": "demo"}
    steps = {"max_denoising_steps": 1, "mode": "fast"}
    with in_process(tmp_path, LIMITS, max_denoising_steps=3) as (client, _):
        for path, body in (
            ("/infill", {"input_prefix": "fig ", "input_suffix": " oak", "n_predict": 2, "seed": 5, **steps}),
            ("/v1/fim/completions", {**sides, "max_tokens": 2, "random_seed": 5, **steps}),
            ("/v1/completions", {**sides, "max_tokens": 2, "seed": 5, **steps}),
        ):
            assert client.post(path, json=body).status_code == 200
            assert found.pop() == (1, 5, 2, "fast"), path
