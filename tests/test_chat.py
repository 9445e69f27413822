"""`mlx-diffusion chat` as a command: one message and its answer, and what a wrong call is told."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES

import mlx_diffusion
from mlx_diffusion.channels import MARKERS
from mlx_diffusion.cli import arguments
from mlx_diffusion.cli.arguments import REAL_MODEL
from mlx_diffusion.cli.chat import speaker
from mlx_diffusion.cli.chat.speaker import load_speaker
from mlx_diffusion.cli.chat.welcome import TRY, welcome
from mlx_diffusion.cli.main import main
from mlx_diffusion.options import GenerationConfig

HUB = str(FIXTURES / "hub")
QUICK = ["--model", HUB, "--max-tokens", "16"]
PYTHON = [sys.executable, "-m", "mlx_diffusion.cli"]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def run(*argv: str) -> int:
    """The exit code, whichever way the command ends."""
    try:
        return main(["chat", *argv])
    except SystemExit as exit:
        assert isinstance(exit.code, int)
        return exit.code


def expected(prompt: str, system: str | None = None, **options: Any) -> str:
    """The answer that the library gives, which has no markers here."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    text = mlx_diffusion.generate(*mlx_diffusion.load(HUB), messages, max_tokens=16, **options)
    assert isinstance(text, str)
    return text


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())


def test_one_message_and_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "-m", "t20 t21", "--system", "t30") == 0
    out, err = capsys.readouterr()
    assert out.strip() == expected("t20 t21", "t30").strip() and out.endswith("\n") and "\x1b" not in out and err == ""


@pytest.mark.parametrize(
    ("argv", "piped", "message"),
    [
        ([], "t20\n", "t20"),
        (["-m", "t21", "--file", "-"], "t20\nt22\n", "t21\n\nt20\nt22"),
        (["-m", "t21", "--file", "-"], "", "t21"),
        (["-m", "t21"], "left alone", "t21"),
    ],
)
def test_standard_input_is_read_where_it_is_asked_for(
    argv: list[str], piped: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO(piped))
    assert run(*QUICK, *argv) == 0
    assert capsys.readouterr().out.strip() == expected(message).strip()


def test_files_stand_below_the_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t30.txt").write_text("t22\n")
    assert run(*QUICK, "-m", "t20", "--file", str(tmp_path / "t30.txt")) == 0
    assert capsys.readouterr().out.strip() == expected(f"t20\n\n{tmp_path / 't30.txt'}:\n\nt22").strip()
    pasted = (tmp_path / "t30.txt").as_uri()
    assert run(*QUICK, "-m", "t20", "--file", pasted) == 0
    assert capsys.readouterr().out.strip() == expected(f"t20\n\n{pasted}:\n\nt22").strip()
    assert run(*QUICK, "-m", "t20", "--file", "/dev/zero") == 1
    assert run(*QUICK, "--file", "notes.txt") == 2


def test_a_loop_keeps_its_lines_and_a_wait_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, written = os.pipe()
    with open(read) as stream, open(written, "w") as writer:
        monkeypatch.setattr(sys, "stdin", stream)
        assert run(*QUICK, "-m", "t20") == 0, "waits for an open pipe"
        writer.write("t21\nt22\n")
        writer.flush()
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        assert run(*QUICK, "-m", "t20") == 0
        assert "--file -" in terminal.getvalue()
        assert stream.readline() == "t21\n"
    monkeypatch.undo()
    read, written = os.pipe()
    monkeypatch.setattr(arguments, "PATIENCE", 0.01)
    with open(read) as stream:
        monkeypatch.setattr(sys, "stdin", stream)

        def write() -> None:
            with open(written, "w") as writer:
                writer.write("t20")

        writing = threading.Timer(0.1, write)
        writing.start()
        assert run(*QUICK) == 0
        writing.join()
    assert "reading standard input" in capsys.readouterr().err


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "-m", "t20", "--json", "--seed", "5") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert out.count("\n") == 1 and err == ""
    assert list(report) == ["text", "finish_reason", "stats", "model", "seed"]
    assert (report["text"], report["seed"]) == (expected("t20", seed=5).rstrip(), 5)


def test_a_terminal_shows_a_canvas_and_then_the_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert run(*QUICK, "-m", "t20 t21") == 0
    text = terminal.getvalue()
    assert "reading the prompt" in text and "step 1/" in text
    left = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text.rpartition("\x1b[J")[2])
    assert left.split() == expected("t20 t21").split()


@pytest.mark.parametrize(("argv", "term"), [(["--plain"], "xterm"), ([], "dumb")])
def test_a_terminal_can_have_plain_text(argv: list[str], term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert run(*QUICK, "-m", "t20 t21", *argv) == 0
    assert terminal.getvalue().strip() == expected("t20 t21").strip()


@pytest.mark.parametrize(
    ("argv", "code", "named"),
    [
        ([], 2, "needs a terminal"),
        (["--json"], 2, '-m "..."'),
        (["-m", " "], 2, "the message is empty"),
        (["-m", "x", "--max-tokens", "0"], 2, "max_tokens is 0"),
        (["-m", "x", "--max-token", "5"], 2, "--max-token"),
        (["-m", "x", "--model", HUB, "--t-min", "0.9"], 2, "t_max"),
        (["-m", "x", "--model", "./no/such/folder"], 1, "no/such/folder"),
        (["-m", " ".join(["t20"] * 4096), "--model", HUB], 1, "4,100 tokens"),
        (["x"], 2, "unrecognized arguments: x"),
        (["-m", "Copy:", "fig", "oak"], 2, "quotes"),
        (["--system", "\udcff", "-m", "x"], 2, "Unicode"),
    ],
)
def test_a_wrong_call_is_told_so(argv: list[str], code: int, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == code
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert out == "" and named in last and last.startswith("mlx-diffusion") and "Traceback" not in err


def test_standard_input_that_is_no_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert run(*QUICK) == 2
    assert "UTF-8" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)
    assert run(*QUICK) == 2


def test_a_checkpoint_without_a_template_names_the_remedy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "chat_template.jinja").unlink()
    assert run("--model", str(folder), "-m", "t20") == 2
    assert "mlx-diffusion generate" in capsys.readouterr().err


def test_ctrl_c_prints_what_is_final(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_speaker(HUB).tokenizer
    final, too = (tuple(tokenizer.encode(text, add_special_tokens=False)) for text in ("t20", " t21"))

    def interrupted(*args: Any, **options: Any) -> Iterator[mlx_diffusion.Event]:
        yield mlx_diffusion.Segment(0, final, "t20")
        signal.raise_signal(signal.SIGINT)
        yield mlx_diffusion.Segment(1, too, " t21")
        raise AssertionError("went on")

    monkeypatch.setattr(speaker, "stream_generate", interrupted)
    assert run(*QUICK, "-m", "t20") == 130
    out, err = capsys.readouterr()
    assert out == " t20 t21\n" and err.strip() == "mlx-diffusion: interrupted"


def test_earlier_turns_are_not_encoded_again() -> None:
    """`thinks` in the template changes the prompt, so it is asked without."""
    checkpoint = load_speaker(HUB)
    config = GenerationConfig(max_tokens=16)
    messages = [{"role": "user", "content": "t20 t21 t22"}]
    first = list(checkpoint.answer(checkpoint.encode(messages, False), config))
    messages += [{"role": "assistant", "content": "t23"}, {"role": "user", "content": "t24"}]
    prompt = checkpoint.encode(messages, False)
    second = list(checkpoint.answer(prompt, config))
    assert isinstance(first[-1], mlx_diffusion.Finish) and isinstance(second[-1], mlx_diffusion.Finish)
    assert first[-1].stats.cached_tokens == 0
    assert second[-1].stats.cached_tokens == first[-1].stats.prompt_tokens
    assert len(prompt) == second[-1].stats.prompt_tokens


def test_a_prompt_too_long_to_be_kept_is_answered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker, "PREFIX_BYTES", 1)
    checkpoint = load_speaker(HUB)
    prompt = checkpoint.encode([{"role": "user", "content": "t20"}], False)
    *_, finish = checkpoint.answer(prompt, GenerationConfig(max_tokens=4))
    assert isinstance(finish, mlx_diffusion.Finish)


def test_the_chat_ends_where_a_stop_string_does() -> None:
    text = expected("t20")
    stop = text[len(text) // 2 :][:3]
    checkpoint = load_speaker(HUB)
    settings = checkpoint.settings(GenerationConfig(stop=(stop,)))
    decoding = checkpoint.decoding(settings)
    tokens = checkpoint.tokenizer.encode(text, add_special_tokens=False)
    parts = [decoding.push([token], last=index == len(tokens) - 1) for index, token in enumerate(tokens)]
    assert "".join(parts) == text[: text.index(stop)]


def test_thinking_goes_to_the_template() -> None:
    demo = load_speaker("demo")
    messages = [{"role": "user", "content": "Add: 27 + 15"}]
    assert len(demo.encode(messages, True)) > len(demo.encode(messages, False))


def test_markers_are_the_tokens_of_the_vocabulary() -> None:
    markers = load_speaker("demo").markers
    assert set(markers.values()) == set(MARKERS)
    tokens = load_speaker("demo").encode([{"role": "user", "content": "what is <|channel>?"}], False)
    assert [markers[token] for token in tokens if token in markers].count("<|channel>") == 0


def test_the_toy_answers_what_the_welcome_says_it_does() -> None:
    assert REAL_MODEL in welcome("demo") and "18 GB" in welcome("demo") and "mine" in welcome("mine")
    toy = mlx_diffusion.load("demo")
    answers = ("fig oak ant", "ant oak fig", "four thousand two hundred seventeen")
    for prompt, answer in zip(TRY, answers, strict=True):
        assert prompt in welcome("demo")
        assert mlx_diffusion.generate(*toy, [{"role": "user", "content": prompt}]) == answer


def test_help_loads_nothing_heavy() -> None:
    probe = (
        "import sys; from mlx_diffusion.cli.main import main\n"
        "try: main(['chat', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'mlx', 'mlx.core', 'numpy', 'transformers', 'rich', 'prompt_toolkit'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "--think" in done.stdout and "examples:" in done.stdout
