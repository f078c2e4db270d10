"""Look for known vulnerabilities of the locked packages: status 0 = none known, 1 = some, 3 = not checked.

pip-audit runs in an environment of its own, made from requirements-audit.lock. It ends well where it could look up
nothing at all, hence its report is read: only packages that were looked up count as checked.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements-dev.lock", "requirements-audit.lock")
CLEAN, VULNERABLE, UNCHECKED = 0, 1, 3
INDEX = "https://pypi.org/pypi/{}/{}/json"
PROBE_S, LIMIT_S = 4.0, 60.0
_PACKAGE = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", re.MULTILINE)


def packages(lock: str) -> list[dict[str, str]]:
    """Return the versions of a lock by package; a second mapping holds second versions, for other Pythons."""
    rounds: list[dict[str, str]] = [{}]
    for name, version in _PACKAGE.findall(lock):
        free = next((one for one in rounds if name.lower() not in one), None)
        if free is None:
            rounds.append(free := {})
        free[name.lower()] = version
    return rounds


def unreachable(name: str, version: str) -> str:
    """Return why the index tells no vulnerabilities of a package; "" = it does."""
    try:
        with urllib.request.urlopen(INDEX.format(name, version), timeout=PROBE_S) as reply:
            told = json.load(reply)
    except (OSError, ValueError, urllib.error.URLError) as error:
        return f"{INDEX.format(name, version)}: {error}"
    return "" if isinstance(told, dict) and "vulnerabilities" in told else "the index tells no vulnerabilities"


def verdict(report: str, locked: Mapping[str, str]) -> tuple[int, str]:
    """Return the status and what to say of a report of pip-audit in JSON."""
    try:
        rows: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return UNCHECKED, f"pip-audit gave no report ({report.strip()[-300:] or 'it said nothing'})"
    found = [
        f"{row['name']} {row['version']}: {one['id']}, mended in {', '.join(one['fix_versions']) or 'no version'}"
        for row in rows
        for one in row.get("vulns", ())
    ]
    checked = {row["name"].lower() for row in rows if "vulns" in row}
    missing = sorted(set(locked) - checked)
    if found:
        return VULNERABLE, "\n".join(found)
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        return UNCHECKED, f"{len(missing)} of {len(locked)} locked packages were not looked up ({shown})"
    return CLEAN, f"none is known of {len(locked)} locked packages"


def run_audit(locked: Mapping[str, str], until_s: float) -> str:
    """Return the report of pip-audit on packages, those of other platforms too; TimeoutExpired if it takes long.

    Args:
        until_s: by the monotonic clock.
    """

    def run(command: Sequence[object], *, is_checked: bool = True) -> str:
        left_s = max(0.1, until_s - time.monotonic())
        words = list(map(str, command))
        done = subprocess.run(words, capture_output=True, text=True, timeout=left_s, check=is_checked)
        return done.stdout or done.stderr

    home = ROOT / ".venv" / "audit"
    python = home / "bin" / "python"
    if not (home / ".ready").exists():
        run([sys.executable, "-m", "venv", "--clear", home])
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        run([*install, "-r", ROOT / LOCKS[1]])
        (home / ".ready").touch()
    pinned = home / "pinned.txt"
    pinned.write_text("".join(f"{name}=={version}\n" for name, version in locked.items()), encoding="utf-8")
    options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json", "--timeout", "5"]
    return run([python, "-m", "pip_audit", *options, "-r", pinned], is_checked=False)


def audit(lock: Path, until_s: float) -> tuple[int, str]:
    """Return the worst status of a lock, and what to say."""
    rounds = packages(lock.read_text(encoding="utf-8"))
    if why := unreachable(*next(iter(rounds[0].items()))):
        return UNCHECKED, why
    try:
        found = [verdict(run_audit(locked, until_s), locked) for locked in rounds]
    except (OSError, subprocess.SubprocessError) as error:
        return UNCHECKED, f"pip-audit could not be run: {error}"
    status = worst(status for status, _ in found)
    return status, "\n".join(said for one, said in found if one == status)


def worst(statuses: Iterable[int]) -> int:
    """Return a vulnerability before what could not be checked, and this before what is clean."""
    return min(statuses, key=(VULNERABLE, UNCHECKED, CLEAN).index)


def main() -> int:
    """Audit both locks within a minute; return the worst status."""
    statuses, until_s = [], time.monotonic() + LIMIT_S
    for name in LOCKS:
        status, said = audit(ROOT / name, until_s)
        what = {CLEAN: "no known vulnerabilities", VULNERABLE: "VULNERABLE", UNCHECKED: "NOT CHECKED"}[status]
        print(f"{name}: {what}: {said}")
        statuses.append(status)
    return worst(statuses)


if __name__ == "__main__":
    sys.exit(main())
