"""What the project depends on is locked with hashes, and an audit says what it could not check."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import audit  # noqa: E402  # scripts/ is no package

LOCKS = {"requirements-dev.lock": ("dev",), "requirements-audit.lock": ("audit",)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(lock: str) -> dict[str, list[str]]:
    """Return the requirements that a lock must fulfil by package, its own and those of the project."""
    rows = [row for group in LOCKS[lock] for row in PROJECT["dependency-groups"][group]]
    if lock == "requirements-dev.lock":
        rows += PROJECT["project"]["dependencies"]
    found = [re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?(.*)", row) for row in rows]
    assert all(found)
    return {normal(one[1]): [part for part in one[2].split(",") if part] for one in found if one}


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text.split("+")[0])[:3]))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_is_locked_in_a_version_that_it_allows(lock: str) -> None:
    rounds = audit.packages((ROOT / lock).read_text(encoding="utf-8"))
    for name, limits in wanted(lock).items():
        versions = [one[name] for one in rounds if name in one]
        assert versions, f"{name} is not in {lock}; run make lock"
        for limit in limits:
            sign, least = re.fullmatch(r"(>=|<)(.+)", limit).groups()  # type: ignore[union-attr]
            for one in versions:
                is_fulfilled = version(one) >= version(least) if sign == ">=" else version(one) < version(least)
                assert is_fulfilled, f"{name} is locked at {one}, wanted {limit}; run make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_has_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)
    assert len(entries) == sum(map(len, audit.packages(text)))
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.split("\n")[0]
    assert not re.search(r"https?://|file://|--(?:extra-)?index-url|--find-links|\s@\s", text)


def test_users_do_not_get_the_audit() -> None:
    extras = [row for rows in PROJECT["project"]["optional-dependencies"].values() for row in rows]
    groups = PROJECT["dependency-groups"]
    named = [normal(row) for row in (*PROJECT["project"]["dependencies"], *extras, *groups["dev"])]
    assert not [row for row in named if row.startswith("pip-audit")]


def row(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "version": "1", "vulns": [], **more}


HOLE = {"id": "PYSEC-1", "fix_versions": ["2"]}


@pytest.mark.parametrize(
    ("rows", "status", "says"),
    [
        ([row("a"), row("b")], audit.CLEAN, "none is known of 2"),
        ([row("a"), row("B", vulns=[HOLE])], audit.VULNERABLE, "B 1: PYSEC-1, mended in 2"),
        ([row("a"), {"name": "b", "skip_reason": "not found"}], audit.UNCHECKED, "1 of 2 .* not looked up .b"),
        ([row("a", vulns=[HOLE]), {"name": "b", "skip_reason": "x"}], audit.VULNERABLE, "PYSEC-1"),
        ([row("a")], audit.UNCHECKED, "not looked up .b"),
        ([], audit.UNCHECKED, "2 of 2"),
    ],
)
def test_only_what_was_looked_up_counts_as_checked(rows: list[Any], status: int, says: str) -> None:
    found, said = audit.verdict(json.dumps({"dependencies": rows}), {"a": "1", "b": "1"})
    assert found == status
    assert re.search(says, said)


@pytest.mark.parametrize("report", ["", "Traceback: no route", "[]", "{}", "null"])
def test_no_report_is_no_clean_one(report: str) -> None:
    assert audit.verdict(report, {"a": "1"})[0] == audit.UNCHECKED


def test_second_versions_for_other_pythons_are_audited_too() -> None:
    lock = "a==1 ; python_full_version < '3.12' \\\n    --hash=sha256:0\na==2 ; x\nb==3\n"
    assert audit.packages(lock) == [{"a": "1", "b": "3"}, {"a": "2"}]


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (subprocess.TimeoutExpired(["pip"], 60), "timed out"),
        (subprocess.CalledProcessError(1, ["pip"]), "non-zero exit"),
        (FileNotFoundError("python"), "python"),
    ],
)
def test_an_audit_that_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch, failure: Exception, says: str) -> None:
    def fail(*_: object) -> str:
        raise failure

    monkeypatch.setattr(audit, "unreachable", lambda *_: "")
    monkeypatch.setattr(audit, "run_audit", fail)
    status, said = audit.audit(ROOT / "requirements-audit.lock", 0.0)
    assert status == audit.UNCHECKED
    assert says in said


def test_an_index_that_is_out_of_reach_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "INDEX", "http://127.0.0.1:9/{}/{}")
    monkeypatch.setattr(audit, "run_audit", lambda *_: pytest.fail("nothing is to be installed for it"))
    assert audit.main() == audit.UNCHECKED
    assert capsys.readouterr().out.count("NOT CHECKED") == len(audit.LOCKS)


@pytest.mark.parametrize(("statuses", "expected"), [([0, 0], 0), ([0, 3], 3), ([3, 1], 1), ([1, 0], 1), ([0], 0)])
def test_a_vulnerability_is_worse_than_what_was_not_checked(statuses: list[int], expected: int) -> None:
    assert audit.worst(statuses) == expected


def test_the_gate_fails_on_a_vulnerability_alone() -> None:
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert gate.rstrip().endswith("scripts/audit.py || [ $? -eq 3 ]")
