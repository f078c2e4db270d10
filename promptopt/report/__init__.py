"""The report of a run: one page that stands alone, made from the run folder, without model and network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptopt.comparison import CompareResult
    from promptopt.result import Result

NAME, COMPARE_NAME = "report.html", "compare.html"


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page of a run, finished or not, or of a comparison, and return where.

    Args:
        out: the file; None = report.html, or compare.html, in the folder.

    Raises:
        ConfigError: the folder holds neither, or a damaged one.
        JournalError: the page cannot be written.
    """
    from promptopt import folder
    from promptopt.errors import JournalError
    from promptopt.report.compare_view import page_of as page_of_comparison
    from promptopt.report.reading import read_story
    from promptopt.report.view import page_of
    from promptopt.result_file import read_comparison

    compared = read_comparison(run_dir)
    path = run_dir / (NAME if compared is None else COMPARE_NAME) if out is None else out
    text = page_of(read_story(run_dir)) if compared is None else page_of_comparison(compared)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{path} cannot be written ({error.strerror}); choose another place") from error
    folder.write(path, text)
    return path


def leave_report(result: Result | CompareResult) -> str:
    """Write the report of a run or comparison that has just ended; return why there is none, "" = there is.

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
