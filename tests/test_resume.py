"""Kill a run anywhere: the same command goes on, pays nothing twice, and ends with the same prompt."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from scripted import Scripted, make_run, model

from promptopt.config import Settings
from promptopt.errors import ConfigError
from promptopt.journal import Journal
from promptopt.testing import Snapshots, answered, outcome
from promptopt.types import Budget

SETTINGS = Settings(model="sim", budget=Budget(calls=200), optimizer="capo", seed=3)


def execute(folder: Path) -> Scripted:
    transport = Scripted(model)
    asyncio.run(make_run(folder, transport, settings=SETTINGS).execute())
    return transport


def test_resumes_identically_from_every_commit(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    with snapshots.watching():
        whole = execute(tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    assert expected["spend"]["calls"] > 180
    assert len(snapshots.folders) > 40
    paid = {request.digest for request in whole.requests}
    for folder in snapshots.folders:
        kept = answered(folder)
        with closing(sqlite3.connect(folder / "journal.db")) as db:
            n_in_flight = db.execute("SELECT COUNT(*) FROM attempts WHERE outcome IS NULL").fetchone()[0]
        resumed = execute(folder)
        assert outcome(folder) == expected
        assert {request.digest for request in resumed.requests} == paid - kept
        lost = json.loads((folder / "result.json").read_text())["spend"]["lost_in_flight"]
        assert lost == n_in_flight
        shutil.rmtree(folder)


def test_other_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    execute(tmp_path)
    other = Settings(model="sim", budget=Budget(calls=200), optimizer="capo", seed=4)
    with pytest.raises(ConfigError, match=r"seed: 3 there, 4 now"):
        asyncio.run(make_run(tmp_path, Scripted(model), settings=other).execute())


def test_budget_may_be_raised_but_not_lowered(tmp_path: Path) -> None:
    execute(tmp_path)
    n_before = outcome(tmp_path)["spend"]["calls"]
    transport = Scripted(model)
    more = Settings(model="sim", budget=Budget(calls=400), optimizer="capo", seed=3)
    result = asyncio.run(make_run(tmp_path, transport, settings=more).execute())
    assert n_before < result.spend.calls <= 400
    assert len(transport.requests) < result.spend.calls
    with Journal(tmp_path / "journal.db") as journal:
        assert journal.events("budget raised")[0]["after"]["calls"] == "400"
    with pytest.raises(ConfigError, match="may be raised, not lowered"):
        asyncio.run(make_run(tmp_path, Scripted(model), settings=SETTINGS).execute())


KILLED = """
import asyncio, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from scripted import Scripted, make_run, model
from test_resume import SETTINGS

class Slow(Scripted):
    async def send(self, request, timeout_s):
        await asyncio.sleep(0.004)
        with open(sys.argv[1] + ".calls", "a") as calls:
            calls.write(request.digest + "\\n")
        return await super().send(request, timeout_s)

asyncio.run(make_run(Path(sys.argv[1]), Slow(model), settings=SETTINGS).execute())
"""


@pytest.mark.parametrize("n_calls", [20, 90, 170])
def test_resumes_identically_after_sigkill(tmp_path: Path, n_calls: int) -> None:
    execute(tmp_path / "whole")
    folder, log = tmp_path / "killed", tmp_path / "killed.calls"
    here = str(Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), here])
    try:
        deadline = time.monotonic() + 60
        while not (log.exists() and len(log.read_text().splitlines()) >= n_calls):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    sent = log.read_text().splitlines()
    resumed = execute(folder)
    assert outcome(folder) == outcome(tmp_path / "whole")
    lost = json.loads((folder / "result.json").read_text())["spend"]["lost_in_flight"]
    twice = [request for request in resumed.requests if request.digest in set(sent)]
    assert len(twice) <= lost <= 16
