"""Runs a search on scripted answers that stops at its n-th call until a file appears: `FOLDER N_CALLS GATE`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from scripted import Scripted, make_run, model

from promptopt.config import Settings
from promptopt.types import Budget, Request, Response

TOTAL = 300


class Gated(Scripted):
    """A transport whose n-th call and those after it wait for a file."""

    n_free: int
    gate: Path

    async def send(self, request: Request, timeout_s: float) -> Response:
        while len(self.requests) >= self.n_free and not self.gate.exists():
            await asyncio.sleep(0.01)
        return await super().send(request, timeout_s)


def main(folder: Path, n_free: int, gate: Path) -> None:
    transport = Gated(model)
    transport.n_free, transport.gate = n_free, gate
    settings = Settings("sim", optimizer="capo", budget=Budget(calls=TOTAL), concurrency=1)
    asyncio.run(make_run(folder, transport, settings=settings).execute())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
