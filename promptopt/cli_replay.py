"""The commands `replay` and `record`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from promptopt.cli_run import EXIT_FAILED, complain

Source = Annotated[Path, typer.Argument(help="run folder, or the file that `promptopt record` made of one")]


def replay(
    source: Source,
    prompt: Annotated[Path | None, typer.Option(help="prompt file to begin with instead")] = None,
    optimizer: Annotated[str | None, typer.Option(help="strategy to take instead, such as path.py:Name")] = None,
    metric: Annotated[str | None, typer.Option(help="metric to take instead, such as path.py:function")] = None,
    data: Annotated[str | None, typer.Option(help="task that is a plug-in: path.py:Name")] = None,
    api_base: Annotated[str | None, typer.Option(help="address of the run, if it had a token in it")] = None,
) -> None:
    """Go through a finished run again without any model.

    Nothing is asked and no key is needed: every answer comes from the run's journal, or from its recording. So do
    prompt, rows and settings; code of your own has to be named. Exit status: 0 the result is identical, 1 it
    differs, or something is asked that was not recorded (with the difference), 2 wrong use.
    """
    from promptopt import api
    from promptopt.errors import ReplayDiverged
    from promptopt.replaying import Replaying
    from promptopt.screen import clean

    task = None if data is None else api.plugged_task(data)
    changed: dict[str, Any] = {"prompt": prompt, "optimizer": optimizer, "metric": metric, "task": task}
    replaying = Replaying(source, **changed, api_base=api_base)
    try:
        found = api.run_in_thread(replaying)
    except ReplayDiverged as error:
        complain(f"diverged: {error.message}" + (f" (at {error.path})" if error.path else ""))
        sys.stderr.write(clean(error.difference) + "\n" if error.difference else "")
        raise typer.Exit(EXIT_FAILED) from error
    for sentence in found.differences:
        sys.stdout.write(clean(sentence) + "\n")
    verdict = "identical" if found.is_identical else "not identical"
    sys.stdout.write(
        f"{verdict}: {found.n_answers:,} answers replayed, none asked; the run ended as {found.result.status}\n"
    )
    if not found.is_identical:
        raise typer.Exit(EXIT_FAILED)


def record(
    run_dir: Annotated[Path, typer.Argument(help="folder of a finished run")],
    out: Annotated[Path | None, typer.Option(help="file to write [RUN_DIR/recording.jsonl]")] = None,
) -> None:
    """Write a finished run into one file that `replay` and the pytest plug-in take.

    It holds the prompts, the rows of the data, the answers and the settings: all that the run needs but for code
    of your own, and no key. Look through it before you give it away, as you would with the data.
    """
    from promptopt import recording
    from promptopt.screen import clean

    path = run_dir / "recording.jsonl" if out is None else out
    found = recording.of_run(run_dir)
    recording.write(found, path)
    size = path.stat().st_size / 1e6
    n_answers = len(found.of("answers"))
    sys.stdout.write(clean(f"wrote {path}: {n_answers:,} answers, {size:.1f} MB\nnext: promptopt replay {path}\n"))
