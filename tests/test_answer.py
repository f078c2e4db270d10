import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.tasks.answer import extract, is_number, parse_letters, parse_number, parse_object, trim


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<answer>x</answer>", "x"),
        ("<ANSWER> x\ny </ANSWER> and more", "x\ny"),
        ("<final_answer>\n**B**\n</final_answer>\nAnswer: C", "B"),
        ("<answer>a</answer> no, <final_answer>b</final_answer>", "b"),
        ("<answer>a</answer> no, <answer>b is cut off", "b is cut off"),
        ("<final_answer><answer>x</answer></final_answer>", "x"),
        ("<answer></answer>", ""),
        ("so\nAnswer: 5\nmore", "5"),
        ("Answer: 4. No!\nFinal answer: 5", "5"),
        ("**Answer:** `x`", "x"),
        ("**Answer**: x", "x"),
        ("**Final Answer: x**", "x"),
        ("ANSWER:\n\n  x y \nz", "x y"),
        ('Answer:\n```json\n{"a": 1}\n```\nok', '{"a": 1}'),
        ('Answer: {"a":\n1}', '{"a":\n1}'),
        ("Answer:", ""),
        ("2 + 2 is 4\n#### 4", "4"),
        ("#### 4\nAnswer: 5", "5"),
        ("Answer: 5\n#### 4", "4"),
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"Answer: $\boxed{\text{Pa{r}is}}$", "Pa{r}is"),
        (r"\boxed{a\}b} c", r"a\}b"),
        (r"\boxed{12", "12"),
        ("```json\n{}\n```", "{}"),
        ("```\nx", "x"),
        ("```a``` and ```b```", "```a``` and ```b```"),
        ('"hi"', "hi"),
        ("“hi”", "hi"),
        ('"a" or "b"', '"a" or "b"'),
        ("  plain  ", "plain"),
        ("", ""),
        ("The answers: many", "The answers: many"),
    ],
)
def test_extract(reply: str, answer: str) -> None:
    assert extract(reply) == answer


@given(st.one_of(st.text(), st.text(alphabet="<answer>/:#\\boxed{}`*\"'$ \n1/.,(A)")))
def test_nothing_ever_raises(reply: str) -> None:
    answer = extract(reply)
    assert answer == answer.strip()
    assert answer in reply
    parse_letters(reply)
    parse_number(reply)
    parse_object(reply)
    is_number(reply)


UNITS = (
    *(
        "<answer>",
        "<answer",
        "answer",
        "answer:",
        "\\boxed{",
        "{",
        '{"a":',
        "[",
        "#",
        "*",
        '"',
        "`",
        "```",
        "\n",
    ),
    *(
        "$",
        "\\text{",
        "####\n",
        "9",
        "1,234,",
        "-",
        "1/",
        "(A)",
        "option ",
        "\\frac{",
        "e9",
        " ",
        "</answer>",
    ),
)


@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_takes_no_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.perf_counter()
    for function in (extract, trim, parse_letters, parse_number, parse_object, is_number):
        function(text)
    assert time.perf_counter() - start < 5


B = (
    *(
        "(B)",
        "B",
        "b",
        "B)",
        "b.",
        "B.",
        "(b)",
        "(B) some text",
        "Option B",
        "b) x",
        "The answer is B.",
        "**(B)** x",
    ),
    *(
        "option (b)",
        "B: x",
        "B, as",
        "B - x",
        "some reasoning\n\nB",
        "(A) is wrong\n**B**",
        "choice: B",
        "(B) is (B)",
    ),
)
SEVERAL = ("(A) or (B)", "A) or B)", "option A or option B")
NO_LETTER = ("", "I think", "A dog", "Be", "none", "f(X) is it", "option a dog", "A-level")
LETTERS = [
    *((text, "B") for text in B),
    *((text, "AB") for text in SEVERAL),
    *((text, "") for text in NO_LETTER),
]


@pytest.mark.parametrize(("answer", "letters"), LETTERS)
def test_letters(answer: str, letters: str) -> None:
    assert "".join(parse_letters(answer)) == letters


EIGHTEEN = (
    *(
        "18",
        "18.0",
        "$18",
        "18%",
        "18.",
        "+18",
        "36/2",
        "1.8e1",
        "7 or 18",
        "\\$18.00",
        "10-18",
        "18 apples",
        "18th",
    ),
    *("\\frac{36}{2}", "x = 18", "2,18", "18\\%", "(18)"),
)
MINUS_FIVE = ("-5", "\N{MINUS SIGN}5", "-$5", "$-5", "= -5", "(-5)")
NO_NUMBER = ("", "none", "x2", "5/0", "9" * 500, "v1")
NUMBERS: list[tuple[str, int | Fraction | None]] = [
    *((text, 18) for text in EIGHTEEN),
    *((text, -5) for text in MINUS_FIVE),
    *((text, None) for text in NO_NUMBER),
    ("1,234,567", 1234567),
    ("1{,}000", 1000),
    (".5", Fraction(1, 2)),
    ("3 / 4", Fraction(3, 4)),
]


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_numbers(text: str, number: int | Fraction | None) -> None:
    assert parse_number(text) == number


@given(st.integers(-(10**15), 10**15), st.integers(0, 99))
def test_every_way_to_write_a_number_is_read(whole: int, cents: int) -> None:
    value = whole + Fraction(cents, 100) * (-1 if whole < 0 else 1)
    for text in (f"{whole}.{cents:02d}", f"{whole:,}.{cents:02d}", f"about {whole:,}.{cents:02d}%."):
        assert parse_number(text) == value
    assert is_number(f"{whole:,}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ('first {"a": 1} then {"b": {"c": 2}} end', {"b": {"c": 2}}),
        ('broken {"a": and {"b": 2}', {"b": 2}),
        ("[1, 2]", None),
        ("{", None),
    ],
)
def test_objects(text: str, expected: dict[str, object] | None) -> None:
    assert parse_object(text) == expected
