"""The command `watch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptopt.cli_run import EXIT_FAILED, complain

if TYPE_CHECKING:
    from promptopt.progress import Progress


def watch(
    run_dir: Annotated[Path, typer.Argument(help="folder of a run, also of one that is just beginning")],
) -> None:
    """Watch a run of another process.

    Shows what `optimize` shows until the run ends, then its verdict; of a run that has ended, the last state. It
    only reads, and Ctrl-C ends the watching alone. Exit status: 0 the run has ended, 1 its process is gone without
    a result, 2 there is no run, 130 Ctrl-C.
    """
    from promptopt import watching
    from promptopt.screen_live import LiveView
    from promptopt.verdict import simulated_line, verdict
    from promptopt.wording import clean, console_of

    view = LiveView(console_of(sys.stderr))
    last: Progress | None = None
    try:
        for sight in watching.sights(run_dir):
            last = sight.progress
            if sight.is_running:
                view.show(last, sight.note)
    finally:
        view.end(last)
    if last is None or last.stage != "ended":
        how = "ended by an error, without a result" if last is not None and last.is_over else "not running"
        sys.stderr.write(clean(f"{how}; to go on, run the same command with --out {run_dir}\n"))
        raise typer.Exit(EXIT_FAILED)
    result = watching.result_of(run_dir)
    for line in (
        simulated_line(result.models),
        verdict(result),
        f"Everything lies in {run_dir}: best.md, result.json",
    ):
        sys.stdout.write(" ".join(clean(line).split()) + "\n" if line else "")
    if result.status == "failed":
        complain(result.reason)
