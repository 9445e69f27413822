"""Names of a package that are imported from its modules on first use, so that importing the package is quick.

Knows nothing of what the names stand for.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package; `homes` says which names come from which module."""
    home = {name: module for module, names in homes.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home[name]), name)
        setattr(sys.modules[package], name, value)  # from now on found without this function
        return value

    def __dir__() -> list[str]:
        plain = {name for name in vars(sys.modules[package]) if name.startswith("__")}
        return sorted(plain | home.keys())

    return __getattr__, __dir__
