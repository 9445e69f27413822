"""A file of JSON lines that a measurement under way writes, and from which the same one goes on after an interrupt.

The first line says what is measured. A last line that was cut off is dropped. Only one process at a time may hold the
file. Knows nothing of what the lines say.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlx_diffusion.errors import EvaluationError
from mlx_diffusion.whole_files import lock


class LineFile:
    """The open file: the lines that it held behind the first, and what is appended."""

    def __init__(self, file: Path, header: Mapping[str, Any], warn: Callable[[str], None] = lambda line: None) -> None:
        """Open or begin the file of this measurement. Raises `EvaluationError` if it holds another one.

        `warn` is told where the file cannot be locked.
        """
        self.file = file
        try:
            for folder in reversed([file.parent, *file.parent.parents]):
                folder.mkdir(mode=0o700, exist_ok=True)  # a new one is the user's alone, and so are its parents
            if file.exists() and not file.is_file():
                raise OSError(errno.EINVAL, "it is no regular file")
            self._stream = file.open("a+b")
        except OSError as error:
            raise EvaluationError(f"{file} cannot be written ({error.strerror}); choose another --output") from None
        try:
            if not lock(self._stream.fileno()):
                warn(f"{file} cannot be locked on its disk; let no second run write there meanwhile")
        except BlockingIOError:
            raise EvaluationError(f"{file}: the same measurement is running already; wait for it, or end it") from None
        self._stream.seek(0)
        content = self._stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [dict(json.loads(line)) for line in whole.splitlines()]
        except (ValueError, TypeError, RecursionError):
            raise self.unusable() from None
        if lines:
            check_same(lines[0], header, self.file)
        self.lines = lines[1:]
        self._stream.truncate(len(whole))
        if not lines:
            self.append(dict(header))

    def append(self, line: Mapping[str, Any]) -> None:
        """Keep a line."""
        self._stream.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._stream.flush()

    def unusable(self) -> EvaluationError:
        """The error for lines that no run of this measurement wrote."""
        return EvaluationError(f"{self.file} is no measurement that can be gone on with; remove it")

    def close(self) -> None:
        self._stream.close()

    def remove(self) -> None:
        """Delete the file: what it held is kept elsewhere."""
        self.file.unlink(missing_ok=True)
        self.close()


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], file: Path) -> None:
    """Refuse to go on with another measurement: the `EvaluationError` names what differs."""
    if found == wanted:
        return
    pairs = [(found, wanted), (found.get("plan", {}), wanted["plan"])]
    differing = [key for a, b in pairs for key in b if key != "plan" and a.get(key) != b[key]]
    raise EvaluationError(
        f"{file} holds another measurement: {' and '.join(differing)} differ; give another --output, or remove it"
    )
