"""Edits of code as Mercury's clients ask for them, and drafts in place of content."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from served import COPY, SHALLOW, TOKENIZER, Served, say, served

from mlx_diffusion import generate

edit_requests = pytest.importorskip("mlx_diffusion.serving.edit_requests")

EDIT = (
    "<|recently_viewed_code_snippets|>\n\n<|/recently_viewed_code_snippets|>\n<|current_file_content|>\n"
    "current_file_path: a.py\n<|code_to_edit|>\nb = 1<|cursor|>\n<|/code_to_edit|>\n<|/current_file_content|>\n"
    "<|edit_diff_history|>\n\n<|/edit_diff_history|>"
)
APPLY = "<|original_code|>\nb = 1\n<|/original_code|>\n\n<|update_snippet|>\nb = 2\n<|/update_snippet|>"
PATHS = {
    "/v1/edit/completions": (EDIT, edit_requests.EditRequest.TASK, "edit.completion"),
    "/v1/apply/completions": (APPLY, edit_requests.ApplyRequest.TASK, "apply.completion"),
}
QUICK: dict[str, Any] = {"seed": 2, "max_denoising_steps": 3, "max_tokens": 20}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(model=SHALLOW) as running:
        yield running


@pytest.mark.parametrize("path", PATHS)
def test_an_edit_is_what_the_model_answers_to_the_tagged_parts(server: Served, path: str) -> None:
    tagged, task, kind = PATHS[path]
    own = generate(SHALLOW, TOKENIZER, say(f"{task}\n\n{tagged}"), **QUICK)
    got = server.post(path, model="demo", messages=say(tagged), temperature=0.3, presence_penalty=1.0, **QUICK).json()
    assert got["choices"][0]["message"] == {"role": "assistant", "content": own} and got["object"] == kind
    assert got["ignored"] == ["temperature", "presence_penalty"]
    assert got["usage"]["cached_input_tokens"] == got["usage"]["reasoning_tokens"] == 0
    sampled: dict[str, Any] = {"mode": "autoregressive", "temperature": 1.0, "seed": 5, "max_tokens": 6}
    written = server.post(path, messages=[{"role": "user", "content": [{"type": "text", "text": tagged}]}], **sampled)
    assert written.json()["choices"][0]["message"]["content"] == generate(
        SHALLOW, TOKENIZER, say(f"{task}\n\n{tagged}"), **sampled
    )
    assert written.json()["ignored"] == []


@pytest.mark.parametrize(
    "path, messages, said",
    [
        ("/v1/edit/completions", say("b = 1"), "between <|current_file_content|> and <|/current_file_content|>"),
        ("/v1/edit/completions", say(APPLY), "between <|current_file_content|>"),
        ("/v1/apply/completions", say(EDIT), "between <|original_code|>"),
        ("/v1/apply/completions", say("<|/original_code|><|original_code|>"), "between <|original_code|>"),
        ("/v1/apply/completions", say(APPLY) * 2, "messages"),
        ("/v1/edit/completions", [{"role": "system", "content": EDIT}], "role"),
        ("/v1/edit/completions", [], "messages"),
    ],
)
def test_edits_without_their_parts_are_refused(server: Served, path: str, messages: Any, said: str) -> None:
    got = server.post(path, messages=messages)
    assert got.status_code == 400 and said in got.json()["error"]["message"]


def test_each_chunk_has_the_whole_text_where_that_is_asked_for(server: Served) -> None:
    own = generate(SHALLOW, TOKENIZER, COPY, **QUICK)
    chunks = server.chunks(messages=COPY, **QUICK, diffusing=True)
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    shown = [text for text in texts if text is not None]
    assert len(shown) > 3 and shown[-1] == own
    both: dict[str, Any] = {"stream": True, "x_diffusion_drafts": True}
    for more in ({}, both):
        got = server.post(messages=COPY, diffusing=True, **more)
        assert got.status_code == 400 and "diffusing" in got.json()["error"]["message"]
