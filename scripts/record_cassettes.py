"""Record cassettes/ anew: all scenarios of tests/cassette.py, or those that are named.

python scripts/record_cassettes.py [NAME ...]

Each one gets a `promptopt simulate` of its own on a free port of this machine; neither key nor network is needed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import cassette


def main() -> None:
    """Record, and remove what no scenario uses."""
    names = sys.argv[1:] or list(cassette.SCENARIOS)
    unknown = [name for name in names if name not in cassette.SCENARIOS]
    if unknown:
        sys.exit(f"no scenario {unknown[0]!r}; there are: {', '.join(cassette.SCENARIOS)}")
    os.environ.pop("OPENAI_API_KEY", None)  # a real key must not even reach the local server
    with tempfile.TemporaryDirectory(dir=cassette.ROOT) as folder:
        for name in names:
            cassette.record(name, Path(folder))
            print(f"cassettes/{name}.yaml")
    for path in cassette.CASSETTES.iterdir():
        if path.stem not in cassette.SCENARIOS:
            path.unlink()
            print(f"{path.relative_to(cassette.ROOT)} removed: no scenario uses it")


if __name__ == "__main__":
    main()
