"""The oldest versions that pyproject.toml allows, as pins for pip: of what the package needs, plots and tests included.

python .ci/oldest.py > oldest.txt && pip install --editable '.[test]' --constraint oldest.txt
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?>=(?P<floor>[\w.]+)(\s*;.*)?")
TOOLS = {"ruff", "mypy"}  # that check the code; what they say differs by version, and no user has it


def pins() -> list[str]:
    """One `name==version` for each requirement, which all have a floor."""
    found = {}
    for requirement in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]):
        match = REQUIREMENT.fullmatch(requirement)
        if match is None:
            sys.exit(f"pyproject.toml: {requirement!r} names no oldest version; write NAME>=VERSION")
        if match["name"] not in TOOLS:
            found[match["name"]] = match["floor"]
    return [f"{name}=={floor}" for name, floor in sorted(found.items())]


if __name__ == "__main__":
    print("\n".join(pins()))
