"""What the README and docs/ say is true: Python runs, commands parse and find their files, links lead somewhere."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_shallow

from mlx_diffusion.checkpoint.folder import DEMO_FOLDER
from mlx_diffusion.cli.main import build_parser

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_WORDS = 1500  # of the README: three minutes

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def lines(page: Path, *beginnings: str) -> list[str]:
    """The indented command lines of a page that begin so."""
    indented = (line for line in page.read_text("utf-8").splitlines() if line.startswith("    "))
    return [line.strip() for line in indented if line.strip().startswith(beginnings)]


SMALL = """
import dataclasses, pathlib
import mlx_diffusion.checkpoint.folder
mlx_diffusion.checkpoint.folder.DEMO_FOLDER = pathlib.Path("shallow").resolve()
from mlx_diffusion.network.model import DiffusionGemma
whole = DiffusionGemma.__init__
def begin(self, config, defaults=None):
    whole(self, config, dataclasses.replace(defaults, max_denoising_steps=2))
DiffusionGemma.__init__ = begin
import mlx_diffusion.structure.endings
mlx_diffusion.structure.endings.SECONDS = 0.1
"""
"""Put before the examples, which need no right answers: forms that the toy has not learned would take all the steps and
time that they may."""


def test_the_python_examples_run(tmp_path: Path) -> None:
    write_shallow(DEMO_FOLDER, tmp_path / "shallow", 16)
    code = SMALL + "\n".join(
        code for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *_ = printed = done.stdout.splitlines()
    assert printed.count(first) >= 3, "generate, the joined stream and a kept prefix differ"


@each_page
def test_the_commands_parse_and_read_what_is_there(page: Path) -> None:
    """A file or folder that a command reads is in the repository, or an earlier line of the page has written it."""
    written: set[str] = set()
    for line in lines(page, "mlx-diffusion ", "echo "):
        words = shlex.split(line)
        if words[0] == "echo":
            written.add(words[-1])
            continue
        args = build_parser().parse_args(words[1:])
        for name in read_by(args):
            assert name in written or (ROOT / name).exists(), f"{page.name}: {line} reads {name}"
        written |= written_by(args)


def read_by(args: argparse.Namespace) -> set[str]:
    given = vars(args)
    local = {name.removeprefix("./") for name in (given.get("model"), given.get("source")) if name and name[0] == "."}
    files = [*(given.get("compare") or ()), *filter(None, [given.get("show")])]
    suites = (name for name in (given.get("suite") or "").split(",") if name.endswith(".jsonl"))
    return local | set(map(str, files)) | set(suites)


def written_by(args: argparse.Namespace) -> set[str]:
    given = vars(args)
    return {str(given[name]) for name in ("output", "markdown", "target") if given.get(name)}


@each_page
def test_make_has_the_targets(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^    )make ([a-z]+)", page.read_text("utf-8"), re.MULTILINE)
    assert set(named) <= targets


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        file, _, anchor = target.partition("#")
        if ":" not in file:
            found = page.parent / file if file else page
            assert found.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(found), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len(README.read_text("utf-8").split()) <= MOST_WORDS
