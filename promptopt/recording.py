"""Recordings: one file of JSON lines that holds recorded calls, and what a run was given if it is that of a run.

`promptopt record` makes one of a run folder; the pytest plug-in makes and plays them for tests. A line is an
object with one key that says what it is: the header, `facts` of models, a run's `result` and `best` prompt, a row
of the journal (see promptopt.transcript), or a `refusal`. No line holds code or a key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from promptopt import folder, models_file, transcript
from promptopt.errors import ConfigError, JournalError
from promptopt.facts import Facts
from promptopt.journal import BRIEF, SETTINGS, storable
from promptopt.result import package_version
from promptopt.tape import Recorded, Tape, refusal_class
from promptopt.template import render
from promptopt.transcript import Row
from promptopt.types import Demo, Message, Prompt, Response, Usage

FORMAT = 1
_HEADER = "promptopt_recording"
_LONGEST_LINE = 2**28  # bytes; the rows of a run's data stand in one line
_WRONG = "it is damaged, or was not written by promptopt"


@dataclass(frozen=True)
class Recording:
    """What a recording holds.

    Args:
        name: of the file or folder, for messages.
        facts: what is known of models, by question.
        rows: (table, row) of a run's journal, or answers alone.
        refusals: calls that were refused, by digest.
        result: what `result.json` of a run held; None = it is no run's, or that run has not ended.
        best: the run's best prompt as its file had it; "" = none.
    """

    name: str
    facts: Mapping[str, Facts] = field(default_factory=dict)
    rows: tuple[tuple[str, Row], ...] = ()
    refusals: Mapping[str, Recorded] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    best: str = ""

    def of(self, table: str) -> list[Row]:
        """Return the rows of a table."""
        return [row for name, row in self.rows if name == table]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the payloads of all events of a kind."""
        return [row["payload"] for row in self.of("events") if row["kind"] == kind]

    @property
    def brief(self) -> dict[str, Any]:
        """What the run was given.

        Raises:
            ConfigError: it is no recording of a run, or of one of an older version.
        """
        found = self.events(BRIEF)
        if not found:
            raise ConfigError(
                f"{self.name} does not say what a run was given: it holds calls alone, or was made by an older "
                "version; name the folder of a run, or what `promptopt record` made of one"
            )
        return found[0]

    @property
    def settings(self) -> dict[str, Any]:
        """The run's settings, the latest ones if its budget was raised."""
        found = self.events(SETTINGS)
        if not found:
            raise ConfigError(f"{self.name} does not say which settings its run had; {_WRONG}")
        return found[-1]

    def calls(self) -> dict[str, Recorded]:
        """Return all recorded calls by the digest of their request."""
        answered = {row["key"]: _recorded(row) for row in self.of("answers")}
        return {**answered, **self.refusals}


def of_run(place: Path) -> Recording:
    """Return the recording that a run folder amounts to.

    Raises:
        ConfigError: it holds no run, or one that was not proved to its end.
    """
    journal = folder.journal_of(place)
    try:
        rows = tuple(transcript.rows_of(*journal))
        result = json.loads((place / "result.json").read_text(encoding="utf-8"))
        best = (place / "best.md").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{place} has no {Path(error.filename).name}: its run has not ended; repeat the command that began it"
        ) from error
    except JournalError as error:
        raise ConfigError(str(error)) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place} cannot be read ({error}); is it the folder of a run?") from error
    facts = models_file.read(place, is_any_version=True)
    found = Recording(str(place), facts, rows, result=_checked_result(result, str(place)), best=best)
    return replace(found, rows=tuple(_with_requests(found, transcript.pairs_of(*journal))))


def of_tape(tape: Tape, name: str, *, keeps_all: bool) -> Recording:
    """Return what a tape has recorded now, in an order that does not hang on time.

    Args:
        keeps_all: with what it held before.
    """
    calls = {**(tape.calls if keeps_all else {}), **tape.taped}
    rows = [_answer_row(key, call) for key, call in sorted(calls.items()) if call.answer is not None]
    numbered = tuple(("answers", {"answer_id": i, **row}) for i, row in enumerate(rows, start=1))
    refusals = {key: call for key, call in sorted(calls.items()) if call.answer is None}
    return Recording(name, dict(tape.facts), numbered, refusals)


def write(recording: Recording, path: Path) -> None:
    """Write a recording, whole or not at all.

    Raises:
        JournalError: it cannot be written.
    """
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in _lines(recording))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{path} cannot be written ({error.strerror}); choose another place") from error
    folder.write(path, storable(text))


def read(path: Path) -> Recording:
    """Return what a recording's file holds, every value checked.

    Raises:
        ConfigError: it cannot be read, or is no recording.
    """
    found: dict[str, Any] = {}
    rows: list[tuple[str, Row]] = []
    refusals: dict[str, Recorded] = {}
    for i_line, (kind, value) in enumerate(_objects(path), start=1):
        try:
            if i_line == 1:
                _check_header(kind, value)
            elif kind in ("facts", "result", "best"):
                found[kind] = value
            elif kind == "refusal":
                refusals[value["key"]] = _refusal(value)
            else:
                transcript.check(kind, value)
                rows.append((kind, value))
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}:{i_line}: {error}") from error
    if not rows and not refusals and not found:
        raise ConfigError(f"{path} is empty: {_WRONG}")
    best = found.get("best", "")
    if not isinstance(best, str):
        raise ConfigError(f"{path}: its best prompt is no text; {_WRONG}")
    result = _checked_result(found["result"], str(path)) if "result" in found else None
    return Recording(str(path), _facts(path, found.get("facts", {})), tuple(rows), refusals, result, best)


# Inside ---------------------------------------------------------------------------------------------


def _with_requests(found: Recording, pairs: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a run, its answers with what was asked where the journal leaves it to be rendered."""
    if not found.events(BRIEF):
        yield from found.rows
        return
    given = found.brief
    inputs = {row["id"]: row["inputs"] for split in given["rows"].values() for row in split}
    prompts = {row["candidate_id"]: _prompt(row) for row in found.of("candidates")}
    for table, row in found.rows:
        candidate, example = pairs.get(row["key"], ("", "")) if table == "answers" else ("", "")
        if row.get("request") is None and candidate in prompts and example in inputs:
            messages = render(prompts[candidate], inputs[example], given["input_column"])
            row = {**row, "request": [list(message) for message in messages]}
        yield table, row


def _prompt(row: Row) -> Prompt:
    demos = tuple(Demo(tuple((c, t) for c, t in inputs), output) for inputs, output in row["demos"])
    return Prompt(row["instruction"], demos)


def _lines(recording: Recording) -> Iterator[dict[str, Any]]:
    yield {_HEADER: FORMAT, "version": package_version()}
    if recording.facts:
        yield {"facts": models_file.rows_of(recording.facts)}
    if recording.result is not None:
        yield {"result": recording.result}
        yield {"best": recording.best}
    for table, row in recording.rows:
        yield {table: row}
    for key, call in recording.refusals.items():
        messages = None if call.messages is None else [list(message) for message in call.messages]
        yield {"refusal": {"key": key, "model": call.model, "error": list(call.refusal), "request": messages}}


def _objects(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of each line."""
    try:
        with path.open("rb") as file:
            i_line = 0
            while raw := file.readline(_LONGEST_LINE + 1):
                i_line += 1
                if len(raw) > _LONGEST_LINE:
                    raise ConfigError(f"{path}:{i_line}: the line is longer than {_LONGEST_LINE} bytes; {_WRONG}")
                yield _object(raw, f"{path}:{i_line}")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _object(raw: bytes, place: str) -> tuple[str, Any]:
    try:
        line = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: no JSON ({error}); {_WRONG}") from error
    if not isinstance(line, dict) or not line:
        raise ConfigError(f"{place}: no object; {_WRONG}")
    kind = next(iter(line))
    if len(line) > 1 and kind != _HEADER:
        raise ConfigError(f"{place}: several things in a line; {_WRONG}")
    return kind, line[kind]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _check_header(kind: str, value: object) -> None:
    if kind != _HEADER:
        raise ConfigError(f"no recording; its first line has to be the header; {_WRONG}")
    if value != FORMAT:
        raise ConfigError(
            f"a recording of form {value!r:.20}, this version reads {FORMAT}; use the version that wrote it"
        )


def _facts(path: Path, rows: object) -> dict[str, Facts]:
    try:
        if not isinstance(rows, dict):
            raise TypeError(f"facts are {type(rows).__name__}")
        return models_file.facts_of(rows)
    except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation) as error:
        raise ConfigError(f"{path}: its facts on models cannot be read ({error}); {_WRONG}") from error


def _checked_result(result: object, place: str) -> dict[str, Any]:
    """Return the result of a run if it has the parts that are looked at."""
    parts = {"status": str, "reason": str, "spend": dict, "evaluations": dict}
    if not isinstance(result, dict) or any(not isinstance(result.get(k), kind) for k, kind in parts.items()):
        raise ConfigError(f"{place}: its result is none of a run; {_WRONG}")
    return result


def _refusal(value: Mapping[str, Any]) -> Recorded:
    kind, message = value["error"]
    refusal_class(kind)
    if not all(isinstance(text, str) for text in (value["key"], value["model"], message)):
        raise ConfigError(f"a refusal that cannot be read; {_WRONG}")
    return Recorded(value["model"], None, (kind, message), _messages(value["request"]))


def _messages(said: Iterable[Any] | None) -> tuple[Message, ...] | None:
    return None if said is None else tuple(Message(str(role), str(text)) for role, text in said)


def _recorded(row: Row) -> Recorded:
    usage = None
    if row["input_tokens"] is not None:
        names = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
        usage = Usage(*(row[name] or 0 for name in names))
    logprobs = row["logprobs"]
    answer = Response(
        text=row["text"],
        usage=usage,
        cost_usd=None if row["cost_usd"] is None else Decimal(row["cost_usd"]),
        latency_s=row["latency_s"],
        finish_reason=row["finish_reason"],
        logprobs=None if logprobs is None else tuple((token, value) for token, value in logprobs),
    )
    return Recorded(row["model"], answer, messages=_messages(row["request"]))


def _answer_row(key: str, call: Recorded) -> Row:
    answer = call.answer
    assert answer is not None
    usage = answer.usage
    return {
        "key": key,
        "model": call.model,
        "text": answer.text,
        "input_tokens": None if usage is None else usage.input_tokens,
        "output_tokens": None if usage is None else usage.output_tokens,
        "cached_tokens": None if usage is None else usage.cached_tokens,
        "reasoning_tokens": None if usage is None else usage.reasoning_tokens,
        "cost_usd": None if answer.cost_usd is None else str(answer.cost_usd),
        "latency_s": round(answer.latency_s, 3),
        "finish_reason": answer.finish_reason,
        "logprobs": None if answer.logprobs is None else [list(pair) for pair in answer.logprobs],
        "request": None if call.messages is None else [list(message) for message in call.messages],
    }
