"""The command: what goes where, and what a wrong call is told."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES

import mlx_diffusion
from mlx_diffusion import GenerationConfig, stream_generate
from mlx_diffusion.cli.arguments import REAL_MODEL, build_config
from mlx_diffusion.cli.main import build_parser, main
from mlx_diffusion.cli.report import figures_line
from mlx_diffusion.errors import PromptError
from mlx_diffusion.events import Finish
from mlx_diffusion.modes import Mode
from mlx_diffusion.network.model import DiffusionGemma
from mlx_diffusion.options import NAMES
from mlx_diffusion.tokenizer import Tokenizer

HUB = str(FIXTURES / "hub")
QUICK = ["--model", HUB, "--max-tokens", "16"]
PYTHON = [sys.executable, "-m", "mlx_diffusion.cli"]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def run(*argv: str) -> int:
    """The exit code, whichever way the command ends."""
    try:
        return main(["generate", *argv])
    except SystemExit as exit:
        assert isinstance(exit.code, int)
        return exit.code


@cache
def loaded() -> tuple[DiffusionGemma, Tokenizer]:
    return mlx_diffusion.load(HUB)


def expected_text(prompt: Any, **options: Any) -> str:
    text = mlx_diffusion.generate(*loaded(), prompt, max_tokens=16, **options)
    assert isinstance(text, str)
    return text


def test_text_goes_to_standard_output_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "t20 t21") == 0
    out, err = capsys.readouterr()
    assert out == expected_text([{"role": "user", "content": "t20 t21"}]) + "\n"
    assert err == ""


def test_system_and_raw(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "--system", "t30", "t20") == 0
    messages = [{"role": "system", "content": "t30"}, {"role": "user", "content": "t20"}]
    assert capsys.readouterr().out == expected_text(messages) + "\n"
    assert run(*QUICK, "--raw", "t20") == 0
    assert capsys.readouterr().out == expected_text("t20") + "\n"


def test_thinking_and_tools_reach_the_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def note(*args: Any, **how: Any) -> Any:
        asked.append((how["tools"], how["enable_thinking"]))
        raise PromptError("enough")

    monkeypatch.setattr(mlx_diffusion, "stream_generate", note)
    tool = {"type": "function", "function": {"name": "sum"}}
    file = tmp_path / "tools.json"
    for written in ([tool], {"tools": [tool]}, tool):
        file.write_text(json.dumps(written))
        assert run("a", "--think", "--tools", str(file)) == 1
    assert run("a") == 1
    assert asked == [([tool], True)] * 3 + [(None, None)]


@pytest.mark.parametrize("content", ["", "[5]", '"sum"', '[{"function": {}}]', "[" * 100_000, None])
def test_a_file_that_holds_no_tools_is_named(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tools.json"
    if content is not None:
        file.write_text(content)
    assert run("a", *QUICK, "--tools", str(file)) == 1
    error = capsys.readouterr().err
    assert str(file) in error.splitlines()[-1] and "Traceback" not in error


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "--json", "--seed", "5", "t20") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert out.count("\n") == 1 and err == ""
    assert list(report) == ["text", "finish_reason", "stats", "model", "seed"]
    assert report["text"] == expected_text([{"role": "user", "content": "t20"}], seed=5)
    assert (report["model"], report["seed"], report["stats"]["blocks"]) == (HUB, 5, 1)


def test_figures_are_for_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert run(*QUICK, "t20") == 0
    line = terminal.getvalue()
    assert line.count("\n") == 1 and "steps" in line and "tokens" in line and "memory" in line


@pytest.mark.parametrize(
    ("mode", "counted"),
    [("reference", r"8 tokens in 4 steps, 1 block, "), ("autoregressive", r"8 tokens in 7 passes, \d"),
     ("speculative", r"8 tokens in \d+ passes, \d of \d+ drafted tokens? kept, ")],
)  # fmt: skip
def test_figures_count_what_a_mode_does(mode: Mode, counted: str) -> None:
    model, tokenizer = loaded()
    steps = {"max_denoising_steps": 4} if mode == "reference" else {}
    config = GenerationConfig(max_tokens=8, mode=mode, eos_token_id=()).override(steps)
    *_, end = stream_generate(model, tokenizer, [20, 21, 20, 21, 20, 21], config=config)
    assert isinstance(end, Finish)
    assert re.search(counted, figures_line(end))


@pytest.mark.parametrize("argv", [[], ["-"]])
def test_the_prompt_may_come_from_standard_input(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO("t20 t21\n"))
    assert run(*QUICK, *argv) == 0
    assert capsys.readouterr().out == expected_text([{"role": "user", "content": "t20 t21"}]) + "\n"


def test_every_option_of_a_generation_is_an_option_of_the_command() -> None:
    given = {
        "max_tokens": 9, "max_denoising_steps": 8, "entropy_bound": 0.2, "t_min": 0.1, "t_max": 0.7,
        "stability_threshold": 2, "confidence_threshold": 0.02, "seed": 3, "mode": "reference", "eos_token_id": (4, 5),
        "prefill_step_size": 64, "canvas_length": 32, "stop": ("a b", "c"), "temperature": 0.5, "top_p": 0.9,
        "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.1, "repetition_context_size": 30, "logprobs": 2,
        "logit_bias": ((3, -1.5), (106, 2.0)), "draft_width": 8, "draft_steps": 2,
        "early_end": 0.9, "lock_threshold": 0.8, "refresh_every": 3, "crop_threshold": 0.7, "first_canvas": 16,
    }  # fmt: skip
    assert sorted(given) == sorted(NAMES)
    argv = ["generate", "prompt"]
    for name, value in given.items():
        for single in value if isinstance(value, tuple) else (value,):
            single = "=".join(map(str, single)) if isinstance(single, tuple) else str(single)
            argv += ["--" + name.replace("_", "-"), single]
    config = build_config(build_parser().parse_args(argv))
    assert {name: getattr(config, name) for name in NAMES} == given


@pytest.mark.parametrize(
    ("argv", "code", "named"),
    [
        (["generate", "--raw", "--think", "a"], 2, "--raw"),
        (["generate", "--raw", "--tools", "t.json", "a"], 2, "--raw"),
        (["generate", "--mode", "speculative", "--logprobs", "2", "a"], 2, "--logprobs are in the JSON; add --json"),
        ([], 2, "COMMAND"),
        (["generate", "Copy:", "fig", "oak", "ant"], 2, "quotes"),
        (["generate", "--model", HUB, ""], 2, "the prompt is empty"),
        (["generate", "--model", HUB, "  \n"], 2, "the prompt is empty"),
        (["generate", "--max-tokens", "many", "t20"], 2, "--max-tokens"),
        (["generate", "--max-token", "5", "t20"], 2, "--max-token"),
        (["generate", "--mode", "quick", "t20"], 2, "reference"),
        (["generate", "--raw", "--system", "a", "t20"], 2, "not allowed with"),
        (["generate", "--max-tokens", "0", "t20"], 2, "max_tokens is 0"),
        (["generate", "--model", HUB, "--t-min", "0.9", "t20"], 2, "t_max"),
        (["generate", "--entropy-bound", "nan", "t20"], 2, "entropy_bound"),
        (["generate", "--model", "./no/such/folder", "t20"], 1, "no/such/folder"),
        (["generate", "--model", HUB, " ".join(["t20"] * 4096)], 1, "4,100 tokens"),
    ],
)
def test_a_wrong_call_is_told_so(argv: list[str], code: int, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main(argv) == code
    except SystemExit as exit:
        assert exit.code == code
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert named in last and last.startswith("mlx-diffusion")
    assert "Traceback" not in err


def test_what_was_typed_makes_no_long_or_broken_line(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--max-tokens", "1\n" + "9" * 100_000], ["--model", "x\n" * 50_000, "hi"]):
        assert run(*argv) in (1, 2)
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("mlx-diffusion") and len(line) < 1100


def test_standard_input_without_end_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/zero", encoding="utf-8") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        assert run("-") == 2
    assert "standard input has more than 16,000,000 characters" in capsys.readouterr().err


def test_a_terminal_without_a_prompt_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert run(*QUICK) == 2
    assert "no prompt" in capsys.readouterr().err


def test_standard_input_that_is_no_text_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert run(*QUICK) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_a_checkpoint_without_a_template_names_the_remedy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "chat_template.jinja").unlink()
    assert run("--model", str(folder), "t20") == 2
    assert "--raw" in capsys.readouterr().err
    assert run("--model", str(folder), "--max-tokens", "4", "--raw", "t20") == 0


def test_the_toy_says_that_it_is_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    toy = mlx_diffusion.load(HUB)
    monkeypatch.setattr(mlx_diffusion, "load", lambda model: toy)
    assert run("--max-tokens", "4", "--json", "Copy: fig oak ant") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["model"] == "demo"
    assert "toy" in err and REAL_MODEL in err and len(err.splitlines()) == 2


def test_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **options: Any) -> Iterator[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(mlx_diffusion, "stream_generate", interrupted)
    assert run(*QUICK, "t20") == 130
    out, err = capsys.readouterr()
    assert out == "" and err.strip() == "mlx-diffusion: interrupted"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[malloc] Unable to allocate 9 bytes."), RuntimeError("Insufficient Memory")]
)
def test_too_little_memory_points_to_the_doctor(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(mlx_diffusion, "stream_generate", full)
    assert main(["generate", "--model", HUB, "t20"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("mlx-diffusion: out of memory (") and "mlx-diffusion doctor" in last


def test_other_errors_of_the_machine_are_bugs_and_shown_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(mlx_diffusion, "stream_generate", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["generate", "--model", HUB, "t20"])


def test_a_reader_that_leaves_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*PYTHON, "generate", *QUICK, "t20"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_help_and_version_load_nothing_heavy() -> None:
    probe = (
        "import sys; from mlx_diffusion.cli.main import main\n"
        "try: main(['generate', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'mlx', 'mlx.core', 'numpy', 'transformers'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "--max-denoising-steps" in done.stdout and "examples:" in done.stdout
    version = subprocess.run([*PYTHON, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"mlx-diffusion {mlx_diffusion.__version__}\n"
