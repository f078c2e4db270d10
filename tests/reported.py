"""Run folders to report on: hostile ones, large ones, and a browser to look at the pages with."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, make_run, make_task, model

from promptopt import api
from promptopt.config import Settings
from promptopt.journal import Journal
from promptopt.types import Budget, Candidate, Prompt, Request, Response, Usage

SUPPORT = Path(__file__).parent.parent / "tasks" / "support" / "prompt.md"

# Each would leave a mark in the page, or change how it looks, if it were anything but text.
PAYLOADS = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "</pre></style><style>body { display: none }</style>",
    "<svg onload='window.hacked = 3'><script>window.hacked = 4</script></svg>",
    "<a href='javascript:window.hacked = 5'>a</a> [b](javascript:window.hacked=6)",
    "\"><iframe srcdoc='<script>parent.hacked = 7</script>'></iframe>",
    "<!-- ]]> </textarea></title></template> &lt;b&gt; {% raw %} {{ '7' * 7 }}",
    "<base href='https://example.org/'><link rel=stylesheet href='https://example.org/x.css'>",
    "<form id=tabs action=https://example.org><input name=hash></form>",
)
HOSTILE = " ".join(PAYLOADS)
# For prompts: without what the gate takes for a placeholder. For rows: no eight words in a row of the prompts.
HOSTILE_PROMPT = HOSTILE.replace("{{ '7' * 7 }}", "")
HOSTILE_ROWS = tuple(payload.replace("hacked", "owned") for payload in PAYLOADS[:6])


def simulated(folder: Path, optimizer: str, n_calls: int, **settings: Any) -> Path:
    """Return the folder of a run of the simulator."""
    budget = Budget(calls=n_calls)
    given = {"model": "sim", "optimizer": optimizer, "budget": budget, "out": folder, **settings}
    api.optimize(SUPPORT, "support", report=False, **given)
    return folder


def hostile(folder: Path) -> Path:
    """Return the folder of a run whose names, rows and replies are all hostile."""
    plain = make_task()

    def spoil(i: int, example: Any) -> Any:
        inputs = {"input": f"{HOSTILE_ROWS[i % len(HOSTILE_ROWS)]} {example.inputs['input']}"}
        return replace(example, id=f"{example.id} {HOSTILE}", inputs=inputs)

    def reply(request: Request) -> str:
        said = model(request)
        written = "</prompt>" in request.messages[-1].content
        return (
            said.replace("<prompt>", f"{HOSTILE}<prompt>{HOSTILE_PROMPT}")
            if written
            else f"{HOSTILE}\n\nAnswer: {said}"
        )

    splits = {s: tuple(spoil(i, e) for i, e in enumerate(getattr(plain, s))) for s in ("train", "dev", "test")}
    task = replace(
        plain,
        **splits,
        name=HOSTILE,
        description=HOSTILE,
        input_column="input",
        initial=Prompt("Name the colour."),
    )
    settings = Settings(model="sim", optimizer="capo", budget=Budget(calls=400), seed=1)
    asyncio.run(make_run(folder, Scripted(reply), task=task, settings=settings).execute())
    return folder


def grow(folder: Path, n: int, n_dev: int = 20) -> None:
    """Add candidates with answers and scores to the journal of a run of the bundled task `support`."""
    with Journal(folder / "journal.db") as journal:
        births = len(list(journal.candidates()))
        for i in range(n):
            text = f"Sort the message, variant {i}. " + "Mind what the customer wants done, not the mood. " * (
                i % 13
            )
            candidate = Candidate(Prompt(f"{text}\n\nMessage: {{{{message}}}}"), (), "grown")
            journal.add_candidate(candidate, births + i)
            skill = (i * 7919 % 1000) / 1000
            for j in range(n_dev):
                key = (i * n_dev + j + 1).to_bytes(16, "big")
                answer = Response("billing", Usage(60 + i % 300, 5), Decimal("0.00002"))
                journal.add_answer(key, "sim", answer, None)
                journal.add_use(key, "task", "search", f":{i}")
                value = float((i * 31 + j * 17) % 100 < 100 * skill)
                journal.add_evaluation(
                    candidate.id,
                    f"support-dev-{j:03d}",
                    0,
                    value=value,
                    is_parsed=True,
                    feedback=None,
                    cause=None,
                    key=key,
                )
            if i % 50 == 0:
                journal.add_event("proposal", "9", i, {"candidate": candidate.id})


def why_no_browser() -> str:
    """Return why pages cannot be looked at here; "" = they can."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt-get install chromium chromium-driver)"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    return ""


@contextmanager
def browser(*, width: int = 1200, is_dark: bool = False, has_script: bool = True) -> Iterator[Any]:
    """Yield a headless Chromium that reaches no network, with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = str(shutil.which("chromium"))
        quiet = ("background-networking", "component-update", "sync", "gpu")
        for flag in (
            "--headless=new",
            "--no-sandbox",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            f"--window-size={width},900",
            *(f"--disable-{name}" for name in quiet),
        ):
            options.add_argument(flag)
        if not has_script:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            theme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
            shape = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
            yield driver
        finally:
            driver.quit()


needs_browser = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())
