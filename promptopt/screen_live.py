"""The live view of a run: a few lines that are renewed on a terminal, one line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from decimal import Decimal

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from promptopt.progress import Progress, RaceNow, Standing, Use
from promptopt.wording import clean, counted, dollars, short

_LEAST_PAUSE_S, _MOST_PAUSE_S = 5.0, 60.0
_PAUSE_SHARE = 0.1  # a line after so much more of the time, between these bounds
_MOST_WIDTH = 100
_LABEL = 9
_SHORTEST_BAR, _LONGEST_BAR = 4, 24
_STAGES = {
    "search": "searching",
    "choice": "choosing among the finalists",
    "proof": "proving on unseen data",
    "ended": "ended",
    "stopped": "stopped without a result",
}
_DAY_S = 86_400


class LiveView:
    """Shows records of a run's progress on a console until it is ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_renewed = console.is_interactive and console.file.isatty()
        self._live: Live | None = None
        self._shown: tuple[object, ...] = ()
        self._told = ""
        self._told_at = time.monotonic()
        self._is_ended = False

    def show(self, progress: Progress, note: str = "") -> None:
        """Show a record, with a note of whoever watches."""
        if not self._is_renewed:
            self._tell_at_times(progress, note)
            return
        size = self._console.size
        state = (progress, note, size)
        if state == self._shown:
            return
        self._shown = state
        frame = Group(
            *frame_of(progress, min(size.width - 1, _MOST_WIDTH), self._console.options.ascii_only, note)
        )
        if self._live is None:
            self._live = Live(
                frame,
                console=self._console,
                auto_refresh=False,
                redirect_stdout=sys.stdout.isatty(),
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(frame, refresh=True)

    def end(self, progress: Progress | None) -> None:
        """Show the last record, which stays; None = nothing more is known."""
        if self._is_ended:
            return
        self._is_ended = True
        if progress is not None and self._is_renewed:
            self.show(progress)
        elif progress is not None:
            self._tell(line_of(progress))
        if self._live is not None:
            self._live.stop()

    def _tell_at_times(self, progress: Progress, note: str) -> None:
        """Print a line where nothing can be renewed: often at first, seldom later."""
        line = line_of(progress) + (f" | {note}" if note else "")
        pause_s = min(_MOST_PAUSE_S, max(_LEAST_PAUSE_S, _PAUSE_SHARE * progress.elapsed_s))
        if line != self._told and time.monotonic() - self._told_at >= pause_s:
            self._tell(line)

    def _tell(self, line: str) -> None:
        self._told, self._told_at = line, time.monotonic()
        self._console.print(Text(clean(line)))


def frame_of(progress: Progress, width: int, is_ascii: bool = False, note: str = "") -> list[Text]:
    """Return the lines of the view, none of them wider than `width`."""
    lines = [_title(progress), *(_row(label, text) for label, text in _figures(progress))]
    at = len(lines) - 3
    lines[at:at] = _spending(progress, width - _LABEL, is_ascii)
    if progress.last_failure and not progress.is_over:
        lines.append(_row("failure", f"the last one: {progress.last_failure}"))
    if note:
        lines.append(_row("note", note))
    for line in lines:
        line.truncate(max(1, width), overflow="crop" if is_ascii else "ellipsis")
        line.no_wrap = True
    return lines


def line_of(progress: Progress) -> str:
    """Return the whole view on one line."""
    calls, usd = progress.use("calls"), progress.use("usd")
    parts = [
        *([_simulated(progress)] if progress.simulated else []),
        progress.stage,
        f"{_amount(calls)} calls",
        _amount(usd),
        f"{counted(progress.n_tried, 'prompt')} tried",
        f"{progress.n_accepted} accepted",
    ]
    if progress.best is not None:
        parts.append(f"best {_standing(progress.best, 'dev examples')}")
        if progress.initial is not None and not progress.is_initial_best:
            parts.append(f"yours {_standing(progress.initial, 'of the same')}")
    parts += [f"race {_race(progress.races)}"] if progress.races else []
    if progress.n_failed:
        last = short(progress.last_failure, 80)
        parts.append(f"{progress.n_failed} attempts failed" + (f", last: {last}" if last else ""))
    if not progress.is_over and progress.calls_per_s is not None:
        parts.append(f"{progress.calls_per_s:.1f} calls/s")
    parts.append(f"{progress.elapsed_s:.0f} s")
    if not progress.is_over and progress.left_s is not None:
        parts.append(f"{left_in_words(progress.left_s)} left (projected)")
    return " | ".join(parts)


# Inside ---------------------------------------------------------------------------------------------


def _title(progress: Progress) -> Text:
    title = Text()
    if progress.simulated:
        title.append(f"{_simulated(progress)}  ", style="yellow")
    stage = "stopping, waits for calls in flight" if progress.is_stopping else _STAGES[progress.stage]
    if progress.is_over:
        stage = _STAGES[progress.stage]
    title.append(stage, style="bold")
    names = list(dict.fromkeys(name for _, name in progress.models))
    title.append(clean(f": {_plain(progress.optimizer)} on {_plain(progress.task)}, {_plain(', '.join(names))}"))
    return title


def _simulated(progress: Progress) -> str:
    """Return the label of a run that a stand-in plays a part in."""
    if len(progress.simulated) == len(progress.models):
        return "SIMULATED MODEL"
    return f"SIMULATED: {_plain(', '.join(progress.simulated))}"


def _figures(progress: Progress) -> Iterator[tuple[str, str]]:
    """Yield label and text of what is no spending; the last three lines stand below the spending."""
    if not progress.is_scored:
        yield "best", "no scores here: a judge compares answers"
    elif progress.best is None:
        yield "best", "nothing evaluated yet"
    else:
        whose = " (your prompt)" if progress.is_initial_best else ""
        yield "best", f"{_standing(progress.best, 'dev examples')}{whose}"
        if not progress.is_initial_best:
            missing = "not evaluated on these examples"
            yield "yours", _standing(progress.initial, "of the same") if progress.initial else missing
    yield "prompts", f"{progress.n_tried:,} tried, {progress.n_accepted:,} accepted"
    if progress.stage == "search":
        yield "race", _race(progress.races) if progress.races else "none at the moment"
    rate = "unknown yet" if progress.calls_per_s is None else f"{progress.calls_per_s:.1f} calls/s (last 30 s)"
    yield "speed", "-" if progress.is_over else rate
    failed = f"{progress.n_failed:,} attempts failed"
    yield "answers", f"{progress.n_cached:,} cached, {progress.n_missing:,} missing; {failed}"
    left = "unknown" if progress.left_s is None else f"{left_in_words(progress.left_s)} (projected)"
    yield "time", f"{in_words(progress.elapsed_s)}" + ("" if progress.is_over else f"; left: {left}")


def _spending(progress: Progress, width: int, is_ascii: bool) -> list[Text]:
    """Return the lines of all that is limited, of calls and of dollars, with bars as long as there is room."""
    until = "search" if progress.stage == "search" else "run"
    shown = [use for use in progress.uses if use.limit is not None or use.name in ("calls", "usd")]
    texts = []
    for use in shown:
        end = "" if use.projected is None or progress.is_over else _number(use.name, use.projected)
        texts.append(_amount(use) + (f", projected {end} ({until})" if end else ""))
    n_bar = min(_LONGEST_BAR, width - 1 - max(map(len, texts)))
    rows = []
    for use, text in zip(shown, texts, strict=True):
        has_bar = use.limit is not None and n_bar >= _SHORTEST_BAR
        bar = f"{_bar(use, n_bar, is_ascii)} " if has_bar else ""
        rows.append(_row("dollars" if use.name == "usd" else use.name, bar + text))
    return rows


def _bar(use: Use, n: int, is_ascii: bool) -> str:
    """Return a bar of `n` characters: what was spent, what is projected, what is left of the limit."""
    spent, projected, rest = "#-." if is_ascii else "█▒░"
    limit = max(use.limit or 0.0, 1e-12)
    n_spent = min(n, max(0, round(n * (use.spent or 0.0) / limit)))
    n_end = min(n, max(n_spent, round(n * (use.projected or 0.0) / limit)))
    return spent * n_spent + projected * (n_end - n_spent) + rest * (n - n_end)


def _amount(use: Use) -> str:
    spent = dollars(None) if use.spent is None else _number(use.name, use.spent)
    return spent if use.limit is None else f"{spent} of {_number(use.name, use.limit)}"


def _number(name: str, value: float) -> str:
    if name == "usd":
        return dollars(Decimal(str(value)))
    return f"{value:,.0f}"


def _standing(standing: Standing, of: str) -> str:
    low, high = standing.ci95
    return f"{100 * standing.score:.1f}% (95%: {100 * low:.1f}-{100 * high:.1f}, n={standing.n:,} {of})"


def _race(races: tuple[RaceNow, ...]) -> str:
    race = races[-1]
    more = f"; {len(races) - 1} more" if len(races) > 1 else ""
    seen = f"{race.n_seen:,} of {race.n_items:,} examples"
    return f"{race.alive} of {race.n_arms} prompts left, {race.keep} wanted, {seen}{more}"


def _row(label: str, text: str) -> Text:
    return Text(f"{label:<{_LABEL}}", style="dim").append(_plain(text), style="not dim")


def _plain(text: str) -> str:
    return " ".join(clean(text).split())


def in_words(seconds: float) -> str:
    """Return a time in words, such as 40 s, 3 min, 2 h 5 min."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def left_in_words(left_s: tuple[float, float]) -> str:
    """Return a range of times in words; one so short or so long that it says nothing is not told in figures."""
    low, high = left_s
    if high < 10:
        return "under 10 s"
    if low > 30 * _DAY_S:
        return "over 30 days"
    first, last = in_words(low), "over 30 days" if high > 30 * _DAY_S else in_words(high)
    if first == last:
        return f"about {first}"
    if first.split(" ", 1)[1:] == last.split(" ", 1)[1:]:
        first = first.split(" ")[0]
    return f"{first} to {last}"
