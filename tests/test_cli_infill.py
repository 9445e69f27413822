"""`mlx-diffusion infill`: all outside the gaps stays to the byte, and what cannot be done is said in one line."""

from __future__ import annotations

import json
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from conftest import FIXTURES
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffusion.cli.infill.target import BYTE_ORDER_MARK, Target, at_markers, at_place, in_range
from mlx_diffusion.cli.main import main

QUICK = ["--model", str(FIXTURES / "hub"), "--max-tokens", "2", "--max-denoising-steps", "2"]
PIECES = st.lists(st.sampled_from(["a", "\n", "\r\n", "\r", "é", " ", "\t", "<", "\u2028", "b" * 9]), max_size=8)
TEXTS = PIECES.map("".join)


def run(*argv: str) -> int:
    try:
        return main(["infill", *QUICK, *argv])
    except SystemExit as exit:
        assert isinstance(exit.code, int)
        return exit.code


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "file.txt"
    file.write_bytes(b"\xef\xbb\xbft20 <FILL> t21\r\nt22 <FILL>")
    file.chmod(0o640)
    return file


@given(parts=st.lists(TEXTS, min_size=2, max_size=4), gap=TEXTS.map(lambda text: text.replace("\r", "")))
def test_what_lies_outside_the_gaps_stays(parts: list[str], gap: str) -> None:
    parts = [part or "x" for part in parts]
    text = "<FILL>".join(parts)
    target = at_markers("file", text, "<FILL>")
    whole = target.filled([gap] * (len(parts) - 1))
    assert whole in [gap.replace("\n", ending).join(parts) for ending in ("\r\n", "\n", "\r")]


@given(text=TEXTS, data=st.data())
def test_every_place_of_a_text_is_found_again(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    if text[place - 1 : place + 1] == "\r\n":
        return  # no place: a line's end is one
    line, column = Target("file", text, ((place, place),)).place_of(0)
    assert at_place("file", text, f"{line}:{column}").gaps == ((place, place),)


def test_lines_and_places_make_ranges() -> None:
    text = BYTE_ORDER_MARK + "one\r\ntwo\nthree"
    assert in_range("file", text, "1-2").parts == ["", "\nthree"]
    assert in_range("file", text, "2:2-3:3").parts == ["one\nt", "ree"]
    assert in_range("file", text, "3-3").filled(["x\ny"]) == text.replace("three", "x\r\ny")


def test_a_file_is_changed_in_its_gaps_alone_and_keeps_its_permissions(file: Path) -> None:
    before = file.read_bytes()
    assert run(str(file), "--in-place") == 0
    after = file.read_bytes()
    beginning, middle, _ = before.split(b"<FILL>")
    assert after.startswith(beginning) and middle in after[len(beginning) :] and b"<FILL>" not in after
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_json_diff_and_plain_output_agree(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = file.read_bytes()
    outputs = {}
    for form in ("--json", "--diff", "--seed=0"):
        assert run(str(file), form) == 0
        outputs[form] = capsys.readouterr().out
    found = json.loads(outputs["--json"])
    assert [(gap["line"], gap["column"]) for gap in found["gaps"]] == [(1, 5), (2, 5)]
    assert "\n".join(gap["text"] for gap in found["gaps"]) + "\n" == outputs["--seed=0"]
    assert outputs["--diff"].startswith(f"--- {file}\n+++ {file}\n@@")
    assert file.read_bytes() == before


def test_standard_input_may_be_the_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"t20 __ t21")))
    assert run("-", "--marker", "__", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"].startswith("t20 ")


@pytest.mark.parametrize(
    ("content", "argv", "code", "said"),
    [
        (b"no gap", [], 2, "has no '<FILL>'"),
        (b"a", ["--marker", ""], 2, "marker is empty"),
        (b"a<FILL><FILL>b", [], 2, "twice in a row"),
        (b"a<FILL>b", ["--marker", "<FILL>", "--marker", "x"], 2, "--marker is given twice"),
        (b"a", ["--at", "2:1"], 2, "has no line 2; it has lines 1 to 1"),
        (b"a", ["--at", "1:3"], 2, "columns 1 to 2"),
        (b"a", ["--at", "0:0"], 2, "has no line 0"),
        (b"a", ["--at", "1"], 2, "write LINE:COLUMN"),
        (b"a\nb", ["--range", "2-1"], 2, "before its beginning"),
        (b"a\nb", ["--range", "1-3"], 2, "has no line 3"),
        (b"a", ["--range", "x"], 2, "write lines as A-B"),
        (b"\xff\xfe<FILL>", [], 1, "is not text"),
        (b"\0<FILL>", [], 1, "is not text"),
        (b"a<FILL>b", ["--max-tokens", "9999"], 2, "max_tokens is 9999"),
        (b"a<FILL>b", ["--gap-tokens", "9999"], 2, "gap_tokens is 9999"),
        (b"a<FILL>b", ["--mode", "autoregressive"], 2, "autoregressive"),
        (b"a<FILL>b", ["--in-place", "--diff"], 2, "not allowed with"),
        (None, [], 1, "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, argv: list[str], code: int, said: str
) -> None:
    file = tmp_path / "file.txt"
    if content is not None:
        file.write_bytes(content)
    assert run(str(file), *argv) == code
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert content is None or file.read_bytes() == content


def test_standard_input_cannot_be_changed_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-", "--in-place") == 2
    assert "standard input is none" in capsys.readouterr().err
