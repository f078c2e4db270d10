"""The report of a run: one page that stands alone, made from the run folder, without model and network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptopt.result import Result

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


def leave_report(result: Result) -> str:
    """Write the report of a run that has just ended; return why there is none, "" = there is.

    It raises nothing: the result is paid for and whole, whatever a page stumbles over.
    """
    from promptopt.errors import PromptoptError

    if result.out is None:
        return "the result has no folder"
    again = f"the result is whole; to try again: promptopt report {result.out}"
    try:
        write_report(Path(result.out))
    except KeyboardInterrupt:
        return f"the report was not written: interrupted; {again}"
    except PromptoptError as error:
        return f"the report was not written: {error}; {again}"
    except Exception as error:  # noqa: BLE001  # see above
        return f"the report was not written ({type(error).__name__}: {error}); {again}"
    return ""
