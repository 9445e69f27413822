"""Asks macOS for a fact of the machine. Knows nothing of what the facts are for."""

from __future__ import annotations


def sysctl(name: str) -> str | None:
    """The value of that name; None where the system has none."""
    import subprocess  # loaded where it is needed, on macOS

    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
