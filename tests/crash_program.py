"""Runs a strategy against a server of tests/counting.py, to be killed: `FOLDER ADDRESS NAME CALLS`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from counting import Direct

from promptopt.config import Settings, load_prompt, load_task, set_initial
from promptopt.plan import make_plan
from promptopt.run import Run
from promptopt.task import Task
from promptopt.tasks import bundled
from promptopt.types import Budget

CONCURRENCY = 8


def support() -> Task:
    """Return the bundled task, with its prompt."""
    file = load_prompt(bundled.folder("support") / bundled.PROMPT)
    task, _ = load_task("support", columns_of=file.prompt)
    return set_initial(task, file)


async def execute(folder: Path, address: str, name: str, n_calls: int) -> None:
    """Run, or go on with what stands in `folder`."""
    settings = Settings(
        "sim",
        optimizer=name,
        budget=Budget(calls=n_calls),
        proof_examples=10,
        concurrency=CONCURRENCY,
        out=folder,
    )
    transport = Direct(address)
    try:
        await Run(make_plan(support(), settings), transports={"": transport}).execute()
    finally:
        await transport.close()


if __name__ == "__main__":
    asyncio.run(execute(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
