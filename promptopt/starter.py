"""The starter that `promptopt init` writes: a prompt, data and options that run as they stand."""

from __future__ import annotations

import json
from pathlib import Path

from promptopt.command import USUAL
from promptopt.errors import ConfigError

# Which bundled task the starter's rows are taken from.
_TASK = "support"
_PROMPT = """---
description: Sort the message of a shop's customer by what it is about.
metric: label
---
Sort the customer's message into one of these groups: {labels}.
<!-- keep -->Answer with the name of the group alone.<!-- /keep -->

Message: {{{{message}}}}
"""
_OPTIONS = """# Options of `promptopt optimize` and `promptopt evaluate` in this folder; the command line wins.
# Every option of the command line can stand here: see `promptopt optimize --help`.

prompt-file = "prompt.md"   # what to improve; between the keep marks in it, nothing may change
data = "data.jsonl"         # one JSON object a line: columns of the prompt, and `target`, the right answer

# The model that the prompt is for. `sim` is the built-in stand-in: free, offline, and it proves nothing.
# A real one is named as litellm names it; its key is read from the environment:
# model = "openai/gpt-5-mini"
model = "sim"
# A stronger model may write the prompts:
# optimizer-model = "openai/gpt-5"

# The most that a run may take, the proof on unseen rows included. Several limits may stand together.
budget-calls = 800
# budget-usd = 2
# auto = "light"            # in place of budget-calls: light, medium or heavy, for 500, 1,500 or 4,500 calls

# optimizer = "reflect"     # the strategy: see `promptopt optimizers`; auto picks one
# seed = 0                  # the same seed makes the same run

# [set]                     # options of the strategy: see `promptopt optimizers reflect`
# max_demos = 4

# [set-model.optimizer]     # options of a role's model: task, optimizer, judge
# temperature = 1
"""


def write(folder: Path) -> list[Path]:
    """Write the files of a starter and return their paths.

    Raises:
        ConfigError: one of them is there already, or the folder cannot be written; nothing was changed.
    """
    from promptopt.tasks import bundled

    home = bundled.folder(_TASK)
    lines = [
        line
        for split in bundled.SPLITS
        for line in (home / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    rows = [json.loads(line) for line in lines]
    data = "".join(json.dumps({k: row[k] for k in ("message", "target")}) + "\n" for row in rows)
    labels = ", ".join(sorted({row["target"] for row in rows}))
    texts = {"prompt.md": _PROMPT.format(labels=labels), "data.jsonl": data, USUAL: _OPTIONS}
    there = [name for name in texts if (folder / name).exists()]
    if there:
        raise ConfigError(f"{folder / there[0]} is there already; choose another folder, or move it away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
    return [folder / name for name in texts]
