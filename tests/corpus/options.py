"""What stands on the command line and in settings files."""

from __future__ import annotations

import os

from corpus.case import Case, hole, words
from corpus.tables import circle, link

ARABIC = "\u0663\u0660\u0660"  # 300 in other digits

WORDS = [
    *(
        words(f"dollars {value or 'blank'}", f"--budget-usd {value}", r"--budget-usd is ")
        for value in ("nan", "inf", "-1", "0", "1e400", "", "1,5", "0x10", "two", "-0.0")
    ),
    *(
        words(f"calls {value[:40] or 'blank'}", f"--budget-calls {value}", r"--budget-calls'? ?(is|must be|:)")
        for value in ("nan", "-1", "0", "1e3", "", "9" * 30, "9" * 5000, "3.5")
    ),
    *(
        words(f"seconds {value or 'blank'}", f"--budget-seconds {value}", r"--budget-seconds is ")
        for value in ("nan", "inf", "-1", "0", "1e400", "")
    ),
    *(
        words(f"seed {value}", f"--seed {value}", r"--seed (is|must be)")
        for value in ("-1", "1.5", "1e400", str(2**63))
    ),
    *(
        words(f"concurrency {value}", f"--concurrency {value}", r"--concurrency (is|must be)")
        for value in ("0", "-5", "1000000000")
    ),
    words("calls in other digits", f"--budget-calls {ARABIC}", r"--budget-calls is .*write a whole number"),
    words("calls each minute none", "--rpm 0", r"--rpm is 0"),
    words("tokens each minute negative", "--tpm -1", r"--tpm is -1"),
    words("length none", "--max-tokens 0", r"--max-tokens is 0"),
    words("prompt length absurd", "--max-prompt-tokens 99999999", r"--max-prompt-tokens must be at most"),
    words("proof negative", "--proof-examples -1", r"--proof-examples is -1"),
    words("price alone", "--price-in 1", r"give both --price-in and --price-out"),
    words("price NaN", "--price-in nan --price-out 1", r"--price-in is nan; write a finite number"),
    words("price negative", "--price-in -1 --price-out 1", r"--price-in is -1; a price is at least 0"),
    words("price absurd", "--price-in 1e9 --price-out 1", r"--price-in is 1E\+9; it must be at most"),
    words("leave to spend NaN", "--confirm-above nan", r"--confirm-above is nan"),
    words("leave to spend a word", "--confirm-above much", r"--confirm-above is 'much'"),
    words("budget of no name", "--auto huge", r"huge.*(light|medium|heavy)"),
    words("option without a value", "--set population", r"--set population: write it as name=value"),
    words("option without a name", "--set =1", r"--set =1: write it as name=value"),
    words("option unknown", "--set populaton=1", r"has no option 'populaton'"),
    words("option NaN", "--set z=nan", r"z=nan; it must be a finite number"),
    words("option infinite", "--set rows_factor=1e400", r"rows_factor=1e400; it must be a finite number"),
    words("option endless", f"--set edits={'9' * 5000}", r"edits="),
    words("option negative", "--set edits=-1", r"edits=-1; it must be at least 1"),
    words("role unknown", "--set-model writer.temperature=1", r"no such role"),
    words("role without option", "--set-model task=1", r"--set-model task"),
    words("role blank", "--set-model .temperature=1", r"--set-model"),
    words("temperature NaN", "--set-model task.temperature=nan", r"temperature"),
    words("temperature hot", "--set-model task.temperature=1e400", r"temperature"),
    words("timeout infinite", "--set-model task.timeout_s=inf", r"timeout_s"),
    words("key as an option", "--set-model task.api_key=x", r"environment"),
    words("model blank", "--model ", r"--model is empty"),
    words("strategy blank", "--optimizer ", r"optimizer '' is unknown"),
    words("strategy a path", "--optimizer ../../etc/passwd", r"optimizer '\.\./\.\./etc/passwd' is unknown"),
    words("metric blank", "--metric ", r"unknown metric ''"),
    words("metric a path", "--metric /etc/passwd", r"unknown metric '/etc/passwd'"),
    words("metric of ten thousand letters", f"--metric {'x' * 10_000}", r"unknown metric 'x+"),
    words("target blank", "--target ", r"no target column ''"),
    words("target a comma", "--target ,", r"--target ,: name each column once"),
    words("input unknown", "--input itm", r"no input column 'itm'.*did you mean 'item'"),
    words("image unknown", "--image pic", r"--image pic: no such column"),
    words("pattern open", "--answer-pattern (", r"--answer-pattern: '\(' is no regular expression"),
    words("pattern endless", f"--answer-pattern {'(' * 5000}", r"is no regular expression"),
    words("address a word", "--api-base localhost", r"--api-base is 'localhost'; write it like http"),
    words("address of a file", "--api-base file:///etc/passwd", r"--api-base is 'file:"),
    words("address with a port too high", "--api-base http://a:99999", r"--api-base is"),
    words("address open", "--api-base http://[::1", r"--api-base is"),
    words("data none", "--data ", r"--data ''"),
    words("data a device", "--data /dev/zero", r"/dev/zero: no such file or folder"),
    words("data a system folder", "--data /proc/self", r"/proc/self: no train"),
    words("run folder a file", "--out data.csv", r"data\.csv is a file, not a folder"),
    words("run folder below a file", "--out data.csv/x", r"data\.csv/x cannot be written"),
    words("run folder a device", "--out /dev/null", r"/dev/null is a file, not a folder"),
    words("run folder in no place", "--out /proc/x/y", r"/proc/x/y cannot be written"),
    words("run folder of a long name", f"--out {'x' * 5000}", r"cannot be written .*long"),
    words("run folder in use", "--out .", r"\. is not empty .* holds no run"),
    words("unknown flag", "--buget-calls 3", r"No such option"),
    words("flag twice", "--seed 1 --seed 2", r"--seed stands 2 times"),
    words("dry and JSON", "--dry-run --json", r"--dry-run has no result"),
]


def evaluation(name: str, said: str, says: str) -> Case:
    base = ("evaluate", "prompt.md", "--data", "data.csv", "--model", "sim", "--out", "here")
    return Case(name, says, command=(*base, *said.split(" ")))


OTHERS = [
    evaluation("limit NaN", "--fail-under nan", r"--fail-under is nan; scores lie between 0 and 1"),
    evaluation("limit in percent", "--fail-under 90", r"--fail-under is 90\.0; .*write 0\.9"),
    evaluation("failures negative", "--failures -1", r"--failures is -1"),
    evaluation("examples none", "--examples 0", r"--examples is 0"),
    evaluation("split unknown", "--split tset", r"--split tset: did you mean 'test'"),
    Case("port too high", r"port", command=("simulate", "--port", "99999")),
    Case("port negative", r"port", command=("simulate", "--port", "-1")),
    Case("latency NaN", r"latency", command=("simulate", "--port", "0", "--latency-ms", "nan")),
    Case("faults above one", r"fault", command=("simulate", "--port", "0", "--fault-rate", "2")),
    Case("host of the world", r"host", command=("simulate", "--port", "0", "--host", "0.0.0.0")),
    Case("strategy to describe", r"optimizer 'refect' is unknown", command=("optimizers", "refect")),
    Case("starter over files", r"is there already", command=("init", ".")),
    Case("starter in a file", r"cannot be written", command=("init", "data.csv/x")),
]


def settings(name: str, content: object, says: str = "") -> Case:
    return Case(name, says, {"own.toml": content}, ("--config", "own.toml"))  # type: ignore[dict-item]


SETTINGS = [
    settings("settings empty", ""),
    settings("settings in Latin-1", "description = 'é'".encode("latin-1"), r"own\.toml: cannot be read .*UTF-8"),
    settings("settings in UTF-16", "seed = 1".encode("utf-16"), r"own\.toml: cannot be read .*UTF-8"),
    settings("settings with a mark", b"\xef\xbb\xbfseed = 1\r\n"),
    settings("settings with NUL", "seed = 1\0", r"own\.toml: is not TOML"),
    settings("settings of 5 MB", hole(5_000_000), r"own\.toml: has 5,000,000 bytes, and at most"),
    settings("settings a pipe", os.mkfifo, r"own\.toml: is no regular file"),
    settings("settings a device", link("/dev/zero"), r"own\.toml: is no regular file"),
    settings("settings a circle", circle, r"own\.toml: cannot be read"),
    settings("settings a folder", lambda path: path.mkdir(), r"own\.toml is a folder"),
    settings("settings in JSON", '{"seed": 1}', r"own\.toml: is not TOML"),
    settings("settings key twice", "seed = 1\nseed = 2", r"own\.toml: is not TOML"),
    settings("settings deep", "set = " + "[" * 100_000, r"own\.toml: is not TOML .*recursion"),
    settings("settings of deep tables", "set" + ".a" * 5_000 + " = 1", r"own\.toml: (set|is not TOML).*"),
    settings("settings of deep names", "[set-model" + ".a" * 50 + "]\nb = 1", r"--set-model"),
    settings("settings number endless", "seed = " + "9" * 5000, r"own\.toml: is not TOML"),
    settings("settings number huge", "seed = 1" + "0" * 400, r"--seed must be at most"),
    settings("settings NaN", "budget-usd = nan", r"--budget-usd is 'NaN'|--budget-usd is NaN"),
    settings("settings infinite", "budget-seconds = inf", r"budget-seconds"),
    settings("settings date", "seed = 2020-01-01", r"seed needs one value, not a date"),
    settings("settings key of an API", "api-key = 'x'", r"keys are read from the environment alone"),
    settings(
        "settings unknown command", "[optimise]\nseed = 1", r"unknown key 'optimise'; did you mean 'optimize'"
    ),
    settings("settings record a list", "run = [1]", r"run is the record of a run"),
    settings(
        "settings of a foreign record",
        "[run]\nidentity = 3\nx = [1]",
        "",
    ),
    settings("settings names itself", "config = 'own.toml'", r"unknown key 'config'"),
    settings("settings with control characters", '"\\u001b[31m" = 1', r"unknown key '\\x1b\[31m'"),
]

CASES = [*WORDS, *OTHERS, *SETTINGS]
