"""`mlx-diffusion eval`: what it prints and writes, goes on with, refuses."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import FIXTURES

from mlx_diffusion.cli.main import main
from mlx_diffusion.measure.answers.evaluation import Evaluation
from mlx_diffusion.measure.answers.plots import accuracy_figure
from mlx_diffusion.measure.answers.tables import variant_table

HUB = str(FIXTURES / "hub")


def run(*argv: str) -> int:
    """The exit code, whichever way the command ends."""
    try:
        return main(["eval", *argv])
    except SystemExit as exit:
        assert isinstance(exit.code, int)
        return exit.code


@pytest.fixture
def suite(tmp_path: Path) -> str:
    file = tmp_path / "own.jsonl"
    lines = [{"prompt": f"t{n} t{n + 1}", "regex": r"(?s).*", "family": "any"} for n in range(20, 23)]
    lines += [{"prompt": "t20", "answer": "t99", "family": "never"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    return str(file)


@pytest.fixture
def quick(suite: str) -> list[str]:
    return [
        "--model",
        HUB,
        "--suite",
        suite,
        "--max-tokens",
        "16",
        "--sweep",
        "max_denoising_steps=1,2",
        "--workers",
        "1",
    ]


def test_tables_json_plots_and_page(quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, svg, png, page = (str(tmp_path / f"r.{kind}") for kind in ("json", "svg", "png", "md"))
    assert run(*quick, "-o", record, "--plot", svg, "--plot", png, "--markdown", page) == 0
    out, err = capsys.readouterr()
    assert "any" in out and "100.0" in out and "Take reference" in out and "100%" in err
    assert Path(png).read_bytes().startswith(b"\x89PNG") and Path(svg).read_text().count("<svg") == 1
    assert "](r.svg)" in Path(page).read_text() and "r.json" in Path(page).read_text()

    before = [Path(file).read_bytes() for file in (svg, page)]
    assert run("--show", record, "--json", "--plot", svg, "--markdown", page) == 0
    report = json.loads(capsys.readouterr().out)
    assert [way["options"] for way in report["ways"]] == [{"max_denoising_steps": 1}, {"max_denoising_steps": 2}]
    assert report["ways"][0]["families"]["any"]["right"] == 3 and report["ways"][0]["families"]["never"]["right"] == 0
    assert report["ways"][1]["all"]["steps_per_canvas"] == 2
    assert [Path(file).read_bytes() for file in (svg, page)] == before, "the same record gives the same files"


def test_comparing(quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (str(tmp_path / name) for name in ("a.json", "b.json"))
    assert run(*quick, "-o", a) == run(*quick, "--mode", "random:0.5", "-o", b) == 0
    capsys.readouterr()
    assert run("--compare", a, b) == 1
    assert "no way of running in common" in capsys.readouterr().err
    assert run("--compare", a, a) == 0
    assert "McNemar" in capsys.readouterr().out
    assert run("--compare", a, a, "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["b"] == "reference max_denoising_steps=1" and not second["differences"][0]["real"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--suite", "lits"], "did you mean 'lists'?"),
        (["--suite", ""], "--suite is empty"),
        (["--suite", "none.jsonl"], "none.jsonl"),
        (["--mode", "quick"], "unknown mode 'quick'"),
        (["--sweep", "steps=3"], "no FIELD=V,V"),
        (["--count", "0"], "--count is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--plot", "x.pdf"], "must end with .png or .svg"),
        (["--markdown", "x.md"], "add --output"),
        (["--answers"], "add --output"),
        (["--show", "x.json", "--suite", "lists"], "leave out one"),
        (["--compare", "a", "b", "--plot", "x.svg"], "use --show"),
        (["--recipes", "4bit", "--plot", "x.svg"], "leave out --plot"),
        (["--recipes", "4bit", "--suite", "copy", "--count", "1", "--sweep", "t_max=0.8,0.9"], "in one way"),
        (["--recipes", "5.5bit", "--suite", "copy", "--count", "1"], "unknown recipe"),
        (["--recipes", "no.json", "--suite", "copy", "--count", "1"], "no.json: no such recipe"),
    ],
)
def test_wrong_usage(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last


def test_without_matplotlib_a_plot_says_what_to_install(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(*quick, "--plot", str(tmp_path / "x.svg")) == 1
    assert "pip install 'mlx-diffusion[plot]'" in capsys.readouterr().err.splitlines()[-1]


def test_the_process_ends_cleanly_and_goes_on(quick: list[str], tmp_path: Path) -> None:
    """Threads of MLX can abort a process at its end, which no test inside it would see."""
    environment = {"XDG_STATE_HOME": str(tmp_path / "state"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "mlx_diffusion.cli", "eval", *quick, "--workers", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert not list((tmp_path / "state").rglob("*.part"))


def test_a_curve_a_mode(quick: list[str], tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    assert run(*quick, "--mode", "reference", "--mode", "confidence:0.9", "-o", str(file)) == 0
    record = Evaluation.read(file)
    figure = accuracy_figure(record)
    (axes,) = figure.axes
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["reference", "confidence:0.9"]
    points = [np.asarray(line.get_xdata()) for line in axes.get_lines()]
    assert all((np.diff(x) >= 0).all() for x in points)
    assert variant_table(record, markdown=True).count("\n") == 1 + len(record.labels)


def test_what_recipes_cost(
    source: Path, suite: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_diffusion.measure.logit_errors.STEPS", 2)
    argv = ["--model", str(source), "--suite", suite, "--max-tokens", "8", "--recipes", "bf16,own.json", "--json"]
    argv += ["--workers", "1"]
    monkeypatch.chdir(source.parent)
    Path("own.json").write_text('{"name": "few/bits", "rules": ["*=2"]}')
    file, page = str(source.parent / "recipes.json"), source.parent / "recipes.md"
    assert run(*argv, "-o", file, "--markdown", str(page)) == 0
    found = json.loads(capsys.readouterr().out)
    written = page.read_text()
    assert run("--show", file, "--json", "--markdown", str(page)) == 0
    assert json.loads(capsys.readouterr().out) == found and page.read_text() == written
    base, same, worse = found["costs"]
    assert [cost["recipe"] for cost in found["costs"]] == ["as it is", "bf16", "few/bits"]
    assert same["figures"]["right"] == base["figures"]["right"] and same["first_divergence"] == 0
    assert worse["first_divergence"] > 0 and worse["converged_divergence"] > 0
    assert worse["weight_bytes"] < same["weight_bytes"]
    assert [comparison["recipe"] for comparison in found["comparisons"]] == ["bf16", "few/bits"]


# A process that is started in the background, as the tests may be, ignores the signal, and so do those that it starts.
INTERRUPTIBLE = """\
import signal, sys
from mlx_diffusion.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


def test_an_interrupt_ends_it_within_a_step_and_the_same_command_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    journal = tmp_path / "r.json.part"
    argv = ["--suite", "copy", "--count", "9", "--workers", "2", "-o", str(output)]
    command = [sys.executable, "-c", INTERRUPTIBLE, "eval", *argv]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and "the same command goes on" in err, err
    done = journal.read_bytes().count(b"\n") - 1
    assert 1 <= done < 9 and not output.exists()
    assert run(*argv) == 0
    assert len(Evaluation.read(output).cells[0, "copy"].outcomes) == 9 and not journal.exists()
