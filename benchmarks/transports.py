"""What the simulator would cost as a litellm custom provider, against the direct way; side by side.

    python benchmarks/transports.py [n_calls]

Decides why `sim` is reached by a transport of its own behind the same gateway (docs/design.md).
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import Any

from promptopt.providers import SimulatorTransport, find_model, load_litellm
from promptopt.simulator import Simulator, landscape
from promptopt.tasks.synthetic import synthetic_task
from promptopt.types import Message, Request


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    train, dev, test = synthetic_task("label", seed=0)
    simulator = Simulator(landscape("default"))
    simulator.learn((*train, *dev, *test))
    spec = find_model("sim", "task")
    direct = SimulatorTransport(simulator, spec)
    started = time.perf_counter()
    litellm = load_litellm()
    import_s = time.perf_counter() - started

    class Provider(litellm.CustomLLM):  # type: ignore[name-defined,misc]
        async def acompletion(self, *args: Any, messages: Any, **kwargs: Any) -> Any:
            asked = tuple(Message(m["role"], m["content"]) for m in messages)
            response = simulator.complete(Request("sim", asked, 1024))
            return litellm.ModelResponse(choices=[{"message": {"role": "assistant", "content": response.text}}])

    litellm.custom_provider_map = [{"provider": "promptopt", "custom_handler": Provider()}]
    texts = [f"Route the note.\n\n{example.inputs['input']}" for example in test]

    async def by_litellm(text: str) -> None:
        await litellm.acompletion(model="promptopt/sim", messages=[{"role": "user", "content": text}])

    async def by_transport(text: str) -> None:
        await direct.send(Request("sim", (Message("user", text),), 1024), 60)

    async def run() -> None:
        await by_litellm(texts[0])
        for name, ask in (("litellm", by_litellm), ("direct", by_transport)) * 3:
            cpu = time.process_time()
            for i in range(n):
                await ask(texts[i % len(texts)])
            rows.setdefault(name, []).append(1000 * (time.process_time() - cpu) / n)

    rows: dict[str, list[float]] = {}
    asyncio.run(run())
    print(f"import of litellm: {import_s:.1f} s")
    for name, values in rows.items():
        print(f"{name}: median {statistics.median(values):.3f} ms of CPU a call (of 3 x {n})")


if __name__ == "__main__":
    main()
