"""The report of a run: one page that stands alone, made from the run folder, without model and network."""

from __future__ import annotations

from pathlib import Path

NAME = "report.html"


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page of a run, finished or not, and return where.

    Args:
        out: the file; None = report.html in the run folder.

    Raises:
        ConfigError: the folder holds no run, or a damaged one.
        JournalError: the page cannot be written.
    """
    from promptopt import folder
    from promptopt.errors import JournalError
    from promptopt.report.reading import read_story
    from promptopt.report.view import page_of

    path = run_dir / NAME if out is None else out
    text = page_of(read_story(run_dir))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{path} cannot be written ({error.strerror}); choose another place") from error
    folder.write(path, text)
    return path
