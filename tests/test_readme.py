"""What the README says is true: its Python runs, its commands parse."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from mlx_diffusion.cli.main import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
