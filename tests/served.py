"""`promptopt simulate` as a process of its own, on a free port of this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMAND = Path(sys.executable).parent / "promptopt"


@contextmanager
def served(*options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the command on a free port and yield its address; it ends by itself after two minutes at most."""
    limit = [] if "--max-seconds" in options else ["--max-seconds", 120]
    command = [COMMAND, "simulate", "--port", 0, *limit, *options]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.stderr.read()
        yield address, process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout.read() == ""
        assert process.stderr.read() == ""
        process.stdout.close()
        process.stderr.close()
