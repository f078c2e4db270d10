"""What a report takes: seconds to write it, and to open it in headless Chromium, by the number of candidates.

    python benchmarks/report.py [n ...]      # default 100 1,000 5,000; medians of 5

The journals are those of a short simulated run, filled up with made-up candidates of 20 scored answers each.
A browser of its own opens each page five times; the first paint and the end of the load event are the browser's.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import reported

from promptopt.report import write_report

N_TIMES = 5
TIMES = (
    "const n = performance.getEntriesByType('navigation')[0], p = performance.getEntriesByName('first-paint')[0];"
    "return [p ? p.startTime : 0, n.loadEventEnd]"
)


def main() -> None:
    sizes = [int(word.replace(",", "")) for word in sys.argv[1:]] or [100, 1_000, 5_000]
    print("| candidates | size | write | first paint | load event |\n|---|---|---|---|---|")
    for n in sizes:
        with tempfile.TemporaryDirectory() as place:
            folder = reported.simulated(Path(place) / "run", "random", 200)
            reported.grow(folder, n)
            write_report(folder)  # imports matplotlib
            seconds = []
            for _ in range(N_TIMES):
                began = time.perf_counter()
                path = write_report(folder)
                seconds.append(time.perf_counter() - began)
            opened = []
            with reported.browser() as driver:
                for _ in range(N_TIMES):
                    driver.get("about:blank")
                    driver.get(path.as_uri())
                    time.sleep(0.5)
                    opened.append(driver.execute_script(TIMES))
            paint, load = (median(row[i] for row in opened) / 1000 for i in (0, 1))
            size = path.stat().st_size / 1e6
            print(f"| {n:,} | {size:.2f} MB | {median(seconds):.2f} s | {paint:.2f} s | {load:.2f} s |")


if __name__ == "__main__":
    main()
