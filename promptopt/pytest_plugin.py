"""A pytest plug-in for pipelines that call promptopt: record the models' answers once, then test without them.

The fixture `promptopt_recording` plays the recording of its test, and makes live calls impossible: a call that
was not recorded fails the test with ReplayDiverged, which says where and how it differs.
`--promptopt-record=new` makes the calls that are missing and adds them; `all` makes them all anew. Recordings lie
in the folder `recordings` beside the test's file (setting `promptopt_recordings`), one for each test, or where
`@pytest.mark.promptopt_recording("run.jsonl")` says, which may be a file of `promptopt record`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from promptopt.tape import Mode, Tape

_OPTION, _FOLDER, _MARK = "--promptopt-record", "promptopt_recordings", "promptopt_recording"
_MODES = ("none", "new", "all")
_has_failed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option and the setting."""
    parser.getgroup("promptopt").addoption(
        _OPTION,
        choices=_MODES,
        default="none",
        help="calls of promptopt in tests with the fixture promptopt_recording: none is live (the default), new "
        "ones are, all are; what is live costs money",
    )
    parser.addini(_FOLDER, "folder of promptopt's recordings, beside each test's file", default="recordings")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line("markers", f"{_MARK}(path): the test's recording, relative to its file")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # the report comes back through the wrapper
    """Note whether a test failed: then no recorded answer is thrown away."""
    if call.when == "call":
        item.stash[_has_failed] = call.excinfo is not None
    return (yield)


@pytest.fixture
def promptopt_recording(request: pytest.FixtureRequest) -> Iterator[Tape]:
    """Play the test's recording, and let no call be live unless `--promptopt-record` says so.

    Yields:
        the tape: `played` and `taped` hold the digests of the calls so far.
    """
    from promptopt import recording, tape

    path, mode = _path(request), request.config.getoption(_OPTION)
    inserted = _tape(path, mode, request.node.nodeid)
    with tape.insert(inserted):
        yield inserted
    if inserted.taped:
        keeps_all = mode == "new" or request.node.stash.get(_has_failed, True)
        recording.write(recording.of_tape(inserted, str(path), keeps_all=keeps_all), path)


def _tape(path: Path, mode: Mode, test: str) -> Tape:
    """Return the tape that holds what a file holds, if there is one."""
    from promptopt import recording
    from promptopt.tape import CHANGED, Tape

    remedy = f"record what is missing, with a key at hand: pytest {_OPTION}=new {test}"
    if not path.exists():
        return Tape(mode, name=str(path), why=f"the file is not there yet; {remedy}")
    found = recording.read(path)
    why = f"{CHANGED}; put them back, or {remedy}"
    return Tape(mode, found.calls(), dict(found.facts), name=str(path), why=why)


def _path(request: pytest.FixtureRequest) -> Path:
    """Return the file of a test's recording."""
    node = request.node
    marker = node.get_closest_marker(_MARK)
    if marker is not None:
        return Path(node.path).parent / str(marker.args[0])
    folder = Path(node.path).parent / str(request.config.getini(_FOLDER)) / Path(node.path).stem
    parents = [part.name for part in node.listchain() if isinstance(part, pytest.Class)]
    return folder / (re.sub(r"[^\w.-]+", "-", ".".join([*parents, node.name])).strip("-") + ".jsonl")
