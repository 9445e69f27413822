"""What the README says is true: its Python runs, its commands parse, its tree is the tree."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from mlx_diffusion.cli.main import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LISTED = ("cli", "cli/bench", "cli/chat", "mlx_diffusion", "mlx_diffusion/benchmark", "mlx_diffusion/evaluation")


def test_the_python_examples_run(tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *_ = lines = done.stdout.splitlines()
    assert lines.count(first) >= 3, "generate, the joined stream and a kept prefix differ"


def commands() -> list[str]:
    return [line.strip() for line in README.splitlines() if line.startswith("    mlx-diffusion ")]


def test_the_commands_parse() -> None:
    assert commands()
    for command in commands():
        build_parser().parse_args(shlex.split(command)[1:])


def test_the_tree_is_complete() -> None:
    (tree,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    folder, listed = "", set()
    for line in tree.splitlines():
        name = line.split()[0]
        if name.endswith("/") and not line.startswith(" "):
            folder = name
        listed.add(name if name == folder else folder + name)
    there = {
        f"{top}/{file.name}"
        for top in (
            "cli",
            "cli/bench",
            "cli/chat",
            "mlx_diffusion",
            "mlx_diffusion/benchmark",
            "mlx_diffusion/evaluation",
        )
        for file in (ROOT / top).glob("*.py")
        if not file.name.startswith("__")
    }
    missing = {name for name in there if name not in listed}
    assert not missing
    for name in listed:
        assert (ROOT / name).exists(), name
