"""The command `report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    run_dir: Annotated[Path, typer.Argument(help="folder of a run, finished or not, or of a comparison")],
    out: Annotated[Path | None, typer.Option(help="file to write [RUN_DIR/report.html, or compare.html]")] = None,
) -> None:
    """Write a run's report.html anew.

    One page that stands alone: the proof, the prompts, plots, examples, spend. It is made from the run's journal,
    also while the run goes on or after a kill; nothing is asked, no key is needed, nothing else changes.
    """
    from promptopt.report import drawing, write_report
    from promptopt.screen import clean

    path = write_report(run_dir, out)
    sys.stdout.write(clean(f"wrote {path}\n"))
    if not drawing.can_draw():
        sys.stderr.write(f"without plots: they need matplotlib ({drawing.REMEDY})\n")
