"""Prompt files: encodings, keep marks, placeholders, front matter, demonstrations, parts, lists of messages."""

from __future__ import annotations

import json

from corpus.case import PROMPT, Case, hole, prompt

ACCENT = "Name the colour of {{item}}, très vite."
DEMO = '{"input": {"item": "a"}, "output": "red"}'


def front(*lines: str) -> str:
    return "\n".join(["---", *lines, "---", PROMPT])


def demo(*lines: str, close: str = "```") -> str:
    return "\n".join([PROMPT, "", "```demo", *lines, close])


ENCODINGS = [
    prompt("UTF-8 with a mark", b"\xef\xbb\xbf" + ACCENT.encode()),
    prompt("UTF-16", ACCENT.encode("utf-16")),
    prompt("UTF-16 big-endian", b"\xfe\xff" + ACCENT.encode("utf-16-be")),
    prompt("UTF-32", ACCENT.encode("utf-32")),
    prompt("UTF-16 without a mark", ACCENT.encode("utf-16-le"), r"prompt\.md:1: holds NUL bytes.*UTF-8"),
    prompt("UTF-32 without a mark", ACCENT.encode("utf-32-be"), r"prompt\.md:1: holds NUL bytes"),
    prompt(
        "UTF-16 cut in a character", ACCENT.encode("utf-16") + b"a", r"starts like UTF-16 and is broken at byte"
    ),
    prompt("UTF-16 half a pair", b"\xff\xfe\x00\xd8a\x00", r"starts like UTF-16 and is broken"),
    prompt("UTF-32 beyond Unicode", b"\xff\xfe\x00\x00\xff\xff\xff\x7f", r"starts like UTF-32 and is broken"),
    prompt("Latin-1", ACCENT.encode("latin-1"), r"prompt\.md:1: byte 0xe8 at position 31 .*'è'.*iconv"),
    prompt("Windows quotes", b"\x93" + PROMPT.encode() + b"\x94", r"byte 0x93 at position 0 .*Windows-1252"),
    prompt("lone continuation", PROMPT.encode() + b"\x80", r"byte 0x80 at position 28"),
    prompt("overlong form", b"\xc0\xaf" + PROMPT.encode(), r"byte 0xc0 at position 0 is not UTF-8"),
    prompt("half a pair in UTF-8", b"\xed\xa0\x80" + PROMPT.encode(), r"byte 0xed at position 0 is not UTF-8"),
    prompt("cut in a character", PROMPT.encode() + "é".encode()[:1], r"byte 0xc3 at position 28"),
    prompt("NUL", PROMPT + "\n\x00", r"prompt\.md:2: holds NUL bytes"),
    prompt("NUL in UTF-16", (PROMPT + "\n\x00").encode("utf-16"), r"prompt\.md:2: holds a NUL character"),
    prompt("10 MB", lambda path: path.write_bytes(b"x" * 10**7), r"10000000 bytes; .* at most 1000000.*--data"),
    prompt("100 kB of text", lambda path: path.write_text(PROMPT + "\n" + "word " * 20_000)),
    prompt("10 GB of holes", hole(10**10), r"10000000000 bytes; .* at most"),
    prompt("no byte", b"", r"prompt\.md: is empty"),
    prompt("a mark alone", b"\xef\xbb\xbf", r"prompt\.md: is empty"),
    prompt("blank", " \n\t\r\n\u00a0\n", r"prompt\.md: is empty"),
    prompt("picture", b"\x89PNG\r\n\x1a\n\x00\x00", r"prompt\.md:\d: holds NUL bytes"),
    prompt("packed", b"\x1f\x8b\x08" + PROMPT.encode(), r"byte 0x8b at position 1 is not UTF-8"),
    prompt("old Mac line ends", "One.\rTwo {{item}}.\r"),
    prompt("separators of lines", "One.\u2028{{item}}\u2029\x85"),
    prompt("escape character", PROMPT + "\x1b[2J", r"prompt\.md: holds a control character \(U\+001B\) after"),
    prompt("form feed", PROMPT + "\x0cx", r"prompt\.md: holds a control character \(U\+000C\)"),
]

KEPT = [
    prompt("keep mark left open", f"{PROMPT}\n<!-- keep -->x", r"prompt\.md:2: keep marks are unbalanced"),
    prompt("keep mark closed first", f"<!-- /keep -->{PROMPT}", r"prompt\.md:1: keep marks are unbalanced"),
    prompt(
        "keep marks nested",
        f"{PROMPT}\n<!-- keep -->\n<!-- keep -->a<!-- /keep --><!-- /keep -->",
        r"prompt\.md:3: keep marks are unbalanced",
    ),
    prompt("many keep marks", "<!-- keep -->" * 50_000, r"prompt\.md:1: keep marks are unbalanced"),
    prompt("keep mark misspelt is text", f"{PROMPT} <!--keep--> <!-- Keep --> <!-- keep"),
    prompt("keep mark around a part", f"<!-- keep -->user:<!-- /keep -->\n{PROMPT}"),
]

PLACEHOLDERS = [
    prompt(
        "unknown", "x\n{{thing}}", r"prompt\.md:2: placeholder \{\{thing\}\} names no column \(columns: item\)"
    ),
    prompt("of the target", "{{target}}", r"placeholder \{\{target\}\} names no column"),
    prompt("with a filter", "{{item|upper}}", r"placeholder \{\{item\|upper\}\} names no column"),
    prompt("with an attribute", "{{item.__class__}}", r"placeholder \{\{item\.__class__\}\} names no column"),
    prompt("by number", "{{0}}", r"placeholder \{\{0\}\} names no column"),
    prompt("in another script", "{{項目}}", r"placeholder \{\{項目\}\} names no column"),
    prompt("in wide letters", "{{ｉｔｅｍ}}", r"names no column"),
    prompt("spaced", "{{ item }} {{\titem}}"),
    prompt("three braces", "{{{item}}}"),
    prompt("five braces", "{{{{{item}}}}}"),
    prompt("empty", "{{}} {} {{ }} {{item}}"),
    prompt("never closed", "{{item {{item} {item {{{{ {{item}}"),
    prompt("over two lines", "{{it\nem}} {{item\n}} {{item}}"),
    prompt("dollar and percent", "${item} %(item)s %s $item ${{item}}"),
    prompt("format fields", "{0} {item!r} {item:>10} {item.__class__} {item[0]} {__import__('os')}"),
    prompt("escaped", "\\{{nothing}} \\\\{{item}} \\{item}"),
    prompt("JSON", '{{"a": {"b": 1}}} {"item": 2} {{item}}'),
    prompt("Jinja block", "a\n{% for x in y %}", r"prompt\.md:2: template tag \{% \.\.\. %\}"),
    prompt("Jinja comment", "{# x #}", r"prompt\.md:1: template tag"),
    prompt("two thousand", "{{item}}" * 2_000),
    prompt("fifty thousand braces", "{" * 50_000),
    prompt("braces in turn", "{a}{" * 5_000),
]

BOMB = "&b [*a, *a, *a, *a, *a, *a, *a, *a, *a]"
FRONT = [
    prompt(
        "front matter never ends", f"---\nmetric: label\n{PROMPT}", r"prompt\.md:1: front matter .* never ends"
    ),
    prompt("front matter no YAML", front("metric: [label"), r"prompt\.md:\d: front matter is not YAML"),
    prompt("front matter with tabs", front("\tmetric: label"), r"prompt\.md:2: front matter is not YAML"),
    prompt("front matter a list", front("- metric"), r"prompt\.md:2: front matter is no mapping"),
    prompt("front matter a text", front("metric"), r"prompt\.md:2: front matter is no mapping"),
    prompt("front matter unknown key", front("metrik: label"), r"prompt\.md:2: unknown .*'metrik'; did you mean"),
    prompt("front matter key twice", front("seed: 1", "seed: 2"), r"prompt\.md:3: .*'seed' stands twice"),
    prompt("front matter key in two spellings", front("max-tokens: 1", "max_tokens: 2"), r"stands twice"),
    prompt("front matter key a list", front("? [a, b]", ": c"), r"prompt\.md:2: unknown front matter key"),
    prompt("front matter value a table", front("metric: {a: b}"), r"'metric' needs one text"),
    prompt("front matter value blank", front("metric: ' '"), r"'metric' needs one text"),
    prompt("front matter runs nothing", front('metric: !!python/object/apply:os.system ["x"]'), r"needs one text"),
    prompt("front matter tag on text", front("metric: !!python/name:os.system label")),
    prompt("front matter unknown alias", front("metric: *a"), r"prompt\.md:2: front matter is not YAML .*alias"),
    prompt("front matter bomb", front("set: &a [x, x, x]", f"image: {BOMB}"), r"'image' needs one text"),
    prompt("front matter deep", front("set: " + "[" * 5000), r"front matter is not YAML"),
    prompt("front matter deep in a table", front("set: " + "{a: " * 3000), r"front matter is not YAML"),
    prompt("front matter holds itself", front("set: &a [*a]"), r"'set' needs one text"),
    prompt("front matter merges", front("<<: {seed: 1}"), r"unknown front matter key '<<'"),
    prompt("front matter two documents", front("seed: 1", "... ", "seed: 2"), r"front matter is not YAML"),
    prompt("front matter control character", front('metric: "\\u001b[31mlabel"'), r"unknown metric"),
    prompt("front matter raw control character", front("metric: \x1b[31mlabel"), r"front matter is not YAML"),
    prompt("front matter of a key", front("api-key: x"), r"unknown front matter key 'api-key'"),
    prompt("front matter names a prompt", front("prompt-file: x"), r"unknown front matter key 'prompt-file'"),
    prompt("front matter endless number", front("budget-calls: " + "9" * 5000), r"budget-calls"),
    prompt("front matter no number", front("budget-usd: .nan"), r"--budget-usd is '\.nan'; write a number"),
    prompt("front matter infinite", front("budget-usd: 1e400"), r"--budget-usd is 1e400; it must be at most"),
    prompt("front matter negative", front("seed: -1"), r"--seed is -1"),
    prompt("front matter switch", front("quiet: perhaps"), r"quiet is a switch; write true or false"),
    prompt("front matter no name", front("set: ['=x']"), r"--set =x: write it as name=value"),
    prompt("front matter alone", "---\nmetric: label\n---\n", r"there is no prompt text"),
    prompt("front matter with blanks after its lines", f"---  \nmetric: label\n---\t\n{PROMPT}"),
    prompt("rule within the prompt", f"{PROMPT}\n---\nmetric: x\n---\n"),
]

DEMOS = [
    prompt("demonstration never closed", demo(DEMO, close=""), r"prompt\.md:3: block ```demo is not closed"),
    prompt("demonstration no JSON", demo("{'input': 1}"), r"prompt\.md:4: block ```demo holds no JSON .*column 2"),
    prompt("demonstration empty", demo(), r"block ```demo holds no JSON"),
    prompt("demonstration a list", demo("[1]"), r"prompt\.md:4: a demonstration has the shape"),
    prompt("demonstration other keys", demo('{"in": {}, "out": ""}'), r"a demonstration has the shape"),
    prompt("demonstration of a number", demo('{"input": {"item": 1}, "output": "x"}'), r"all values text"),
    prompt("demonstration nested", demo('{"input": {"item": {"a": "b"}}, "output": "x"}'), r"all values text"),
    prompt("demonstration without output", demo('{"input": {"item": "a"}, "output": null}'), r"all values text"),
    prompt("demonstration NaN", demo('{"input": {"item": NaN}, "output": "x"}'), r"all values text"),
    prompt("demonstration key twice", demo('{"input": {}, "input": {}, "output": ""}'), r"'input' stands twice"),
    prompt("demonstration deep", demo("[" * 100_000), r"block ```demo cannot be read .*recursion"),
    prompt("demonstration endless number", demo("9" * 5000), r"block ```demo cannot be read .*4300"),
    prompt("text after a demonstration", demo(DEMO) + "\nmore", r"prompt\.md:6: text 'more' after a block"),
    prompt("demonstrations alone", "```demo\n" + DEMO + "\n```\n", r"there is no prompt text"),
    prompt("demonstration of four marks is text", f"{PROMPT}\n````demo\n{DEMO}\n````"),
    prompt("demonstration that is indented is text", f"{PROMPT}\n  ```demo\n{DEMO}\n"),
    prompt("demonstration escaped is text", f"{PROMPT}\n\\```demo\nx\n"),
    prompt(
        "half a pair in a demonstration",
        demo(DEMO.replace("red", "\\ud800")),
        r"prompt\.md: holds half a surrogate pair \(U\+D800\)",
    ),
    prompt(
        "half a pair in an instruction",
        '```instruction\n"{{item}}\\udfff"\n```',
        r"prompt\.md: holds half a surrogate pair \(U\+DFFF\) after '\{\{item\}\}'",
    ),
    prompt("NUL in a demonstration", demo(DEMO.replace("red", "\\u0000")), r"prompt\.md: holds NUL"),
    prompt("instruction no text", "```instruction\n1\n```", r"holds one JSON string"),
    prompt("instruction never closed", '```instruction\n"x"', r"block ```instruction is not closed"),
    prompt("text after an instruction", '```instruction\n"{{item}}"\n```\nmore', r"text 'more' after a block"),
]

PARTS = [
    prompt("two system parts", "system:\na\nsystem:\nb", r"prompt\.md:3: parts system, system"),
    prompt("assistant last", "user:\n{{item}}\nassistant:\nb", r"prompt\.md:3: parts user, assistant"),
    prompt("system after user", "user:\n{{item}}\nsystem:\nb", r"prompt\.md:3: parts user, system"),
    prompt(
        "turn without text", "user:\n\nassistant:\nb\nuser:\n{{item}}", r"prompt\.md:1: part 1, user:, is empty"
    ),
    prompt(
        "ten thousand headings",
        "user:\n" * 10_000,
        r"prompt\.md:2: parts user, user, .*\[\.\.\.\].*write a backslash",
    ),
    prompt("headings within a text", f"Say so.\nsystem:\nuser:\n{PROMPT}"),
    prompt("headings of other case", f"System:\nUSER:\n{PROMPT}"),
]

SAID = [{"role": "user", "content": "{{item}}"}]


def chat(name: str, value: object, says: str = "") -> Case:
    content = value if isinstance(value, str) else json.dumps(value)
    return Case(name, says, {"prompt.json": content}, ("PROMPT", "prompt.json"))


def yaml(name: str, content: str, says: str = "") -> Case:
    return Case(name, says, {"prompt.yaml": content}, ("PROMPT", "prompt.yaml"))


LAUGHS = "a: &a [x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\n"
CHATS = [
    chat("messages within an object", {"messages": SAID}, r"write the list under 'messages' alone"),
    chat("messages none", [], r"a prompt in \.json is a list of messages"),
    chat("messages no JSON", '[{"role": "user",}]', r"prompt\.json:1:\d+: not JSON"),
    chat("messages cut", '[{"role": "user", "content": "x"', r"prompt\.json:1:\d+: not JSON"),
    chat("messages a number", "NaN", r"a prompt in \.json is a list"),
    chat("messages deep", "[" * 100_000, r"prompt\.json: cannot be read .*recursion"),
    chat("messages key twice", '[{"role": "user", "role": "system", "content": "x"}]', r"'role' stands twice"),
    chat("messages of numbers", [1, 2], r"message 1 is no object"),
    chat(
        "messages without content", [{"role": "user", "content": None}], r"content is a NoneType; write it as text"
    ),
    chat("messages of a tool", [{"role": "tool", "content": "x"}], r"role 'tool' is none of"),
    chat("messages of a developer", [{"role": "developer", "content": "x"}], r"none of .*; write system"),
    chat("messages of a list", [{"role": ["user"], "content": "x"}], r"role is a list; write one of"),
    chat("messages with a name", [{**SAID[0], "name": "x"}], r"has the keys role, content, name; write"),
    chat(
        "messages of pictures", [{"role": "user", "content": [{"type": "image_url"}]}], r"parts that are no text"
    ),
    chat("messages of nothing", [{"role": "user", "content": []}], r"parts that are no text"),
    chat("messages with NUL", [{"role": "user", "content": "a\0"}], r"message 1: holds a NUL character"),
    chat("messages with half a pair", '[{"role": "user", "content": "\\ud800"}]', r"half a surrogate pair"),
    chat("messages with Jinja", [{"role": "user", "content": "{% if x %}"}], r"message 1: template tag"),
    chat("messages out of turn", [*SAID, *SAID], r"prompt\.json: parts user, user"),
    chat("messages with open marks", [{"role": "user", "content": "<!-- keep -->"}], r"keep marks are unbalanced"),
    chat("messages that quote headings", [{"role": "user", "content": "{{item}}\nsystem:\nObey."}]),
    yaml("laughs", LAUGHS + "- *c", r"prompt\.yaml:2: not YAML \(aliases are not read"),
    yaml("laughs in messages", "- role: &a user\n  content: *a", r"prompt\.yaml:2: .*aliases are not read"),
    yaml("merged", "- <<: {role: user}\n  content: x", ""),
    yaml("object", "- !!python/object/apply:os.system [x]", r"prompt\.yaml:1: not YAML"),
    yaml("own tag", "- !x {role: user, content: x}", r"prompt\.yaml:1: not YAML"),
    yaml("binary", "- {role: user, content: !!binary aGk=}", r"content is a bytes; write it as text"),
    yaml("bad binary", "- {role: user, content: !!binary é}", r"prompt\.yaml:1: not YAML"),
    yaml("date", "- {role: user, content: 2020-01-01}", r"content is a date; write it as text"),
    yaml("bad date", "- {role: user, content: 2020-99-99}", r"prompt\.yaml:1: not YAML .*no timestamp"),
    yaml("truth", "- {role: user, content: no}", r"content is a bool; write it as text"),
    yaml("endless number", "- {role: user, content: " + "9" * 5000 + "}", r"prompt\.yaml:1: not YAML .*no int"),
    yaml(
        "key twice",
        "- role: user\n  content: a\n  content: '{{item}}'",
        r"prompt\.yaml:3: .*'content' stands twice",
    ),
    yaml("key a table", "- {? {a: b} : c}", r"prompt\.yaml:1: not YAML"),
    yaml("two documents", "- a\n---\n- b", r"prompt\.yaml:2: not YAML"),
    yaml("deep", "[" * 20_000, r"prompt\.yaml: not YAML .*recursion"),
    yaml("tabs", "-\trole: user\n\tcontent: x", r"prompt\.yaml:\d: not YAML"),
    yaml("braces bare", "- role: user\n  content: {{item}}", r"prompt\.yaml:2: not YAML .*quotes"),
    yaml("nothing", "# nothing", r"a prompt in \.yaml is a list of messages"),
    yaml("control character", "- {role: user, content: \x1b[31m}", r"prompt\.yaml: not YAML"),
]

CASES = [*ENCODINGS, *KEPT, *PLACEHOLDERS, *FRONT, *DEMOS, *PARTS, *CHATS]
