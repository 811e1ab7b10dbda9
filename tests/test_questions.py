"""Questions of one's own: how a file is read, and how its answers are judged."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from gac_core import ConfigError
from gac_core.evaluation.judging import compiles, first_sentence, says, words
from gac_core.evaluation.question_files import Question, QuestionLine, read_questions

ROOT = Path(__file__).parents[1]
SETS = sorted((ROOT / "benchmarks/questions").glob("*.jsonl"))

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of questions, a line each: text as it is, other values as JSON."""

    def written(*lines: Any, name: str = "mine.jsonl") -> Path:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path = tmp_path / name
        path.write_text("\n".join(texts), encoding="utf-8")
        return path

    return written


def question(**values: Any) -> Question:
    return Question(QuestionLine.of({"question": "What?", **values}), "here")


# ------------------------------------------------ words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Sun.", "the sun"),
        ("**São Tomé**, naïve ﬁne", "sao tome naive fine"),
        ("Washington, D.C.", "washington d c"),
        ("1,000,000 or -2.50, 3,4", "1000000 or -2.50 3 4"),
        ("10-5 = 5; x−5; minus −5", "10 5 5 x 5 minus -5"),
        ("12th H₂O CO2", "12th h2o co2"),
        ("首都は東京です", "首 都 は 東 京 で す"),
        ("Ελλάδα Straße МОСКВА", "ελλαδα strasse москва"),
        ("don't snake_case", "don t snake case"),
        (" ... !", ""),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert " ".join(words(text)) == expected


@given(st.text())
def test_words_are_those_of_words(text: str) -> None:
    assert words(" ".join(words(text))) == words(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris. It lies in France.", "Paris"),
        ("Paris\nQ: And of Italy? Rome.", "Paris"),
        ("Sure! The capital is Paris. It is", "Sure! The capital is Paris"),
        ("What is it? Paris.\nRome", "What is it? Paris"),
        ("The answer is:\n\nParis\nRome", "The answer is:\n\nParis"),
        ("# Answer\nParis\nRome", "# Answer\nParis"),
        ("\n\n Paris", "Paris"),
        ("1. Paris\n2. Rome", "1. Paris"),
        ("4.", "4"),
        ("St. John's. Next", "St. John's"),
        ("Washington, D.C. is it. Next", "Washington, D.C. is it"),
        ("It is 3.14. Next", "It is 3.14"),
        ("東京です。大阪", "東京です"),
        ("", ""),
    ],
)
def test_the_first_sentence(text: str, expected: str) -> None:
    assert first_sentence(text) == expected


# ------------------------------------------------ ways of judging


@pytest.mark.parametrize(
    ("match", "text", "right"),
    [
        ("first", "The capital is Port-au-Prince.", True),
        ("first", "I do not know. Perhaps Port-au-Prince?", False),
        ("first", "Port.", False),
        ("contains", "I do not know. Perhaps Port-au-Prince?", True),
        ("contains", "PORT AU PRINCES", False),
        ("exact", "port au prince!", True),
        ("exact", "It is Port-au-Prince.", False),
        ("first", "<think>Is it Paris. No.</think>\n\nPort-au-Prince", True),
        ("contains", "<think>Port-au-Prince</think>Paris", False),
        ("contains", "", False),
    ],
)
def test_accepted_answers(match: str, text: str, right: bool) -> None:
    found = question(answers=["Port-au-Prince", "Haiti's capital"], match=match)
    assert found.is_correct(text) == right


def test_numbers_are_whole_words() -> None:
    found = question(answers="4")
    assert found.is_correct("It has 4 legs.")
    for wrong in ("It has 40 legs.", "14", "It has 4.5 legs.", "-4", "4th", "4,000"):
        assert not found.is_correct(wrong), wrong


def test_a_pattern_is_searched() -> None:
    found = question(pattern=r"(?i)\bpar[iy]s\b")
    assert found.is_correct("I say:\nPARIS.")
    assert not found.is_correct("Parish")


CODE = [
    ("def f(a):\n    return a\n", True),
    ("Here it is:\n```python\ndef f(a):\n    return a\n```\nIt returns a.", True),
    ("1. So:\n   ```\n   def f(a):\n       return a\n   ```", True),
    ("```python\ndef f(a):\nreturn a\n```", False),
    ("def f(a):\n  return a\n return b", False),
    ("I can not do that.", False),
    ("x = '\\d'", True),  # warns, and compiles
    ("x = \0", False),
    ("(" * 5000, False),
    (" \n", False),
    ("", False),
]


@pytest.mark.parametrize(("text", "right"), CODE)
def test_code_of_a_chat_must_compile(text: str, right: bool) -> None:
    assert question(code="python").is_correct(text) == right


def test_a_prefix_stands_before_the_code() -> None:
    found = question(code="python", prefix="def f(a):\n")
    assert found.is_correct("    return a")
    assert not found.is_correct("return a")


PROMPT = "def gcd(a, b):\n    while b:\n"


@pytest.mark.parametrize(
    ("text", "is_cut", "right"),
    [
        ("        a, b = b, a % b\n    return a\n", False, True),
        ("        a, b = b, a % b\n    return a\n\nThis is Euclid's way.", False, True),
        ("        a, b = b, a % b\n    return a\n)", False, False),
        ("     a, b = b, a % b\n    return a\n", False, True),
        ("        a, b = b\n      return a\n", False, False),
        ("    a, b = b, a % b\n", False, False),
        ("        a, b = b, a %", False, False),
        ("        a, b = b, a %", True, True),
        ("        a = (b,\n     c,\n", True, True),
        ("        a, b = b\n      return a\n      b", True, False),
        ("        a, b = b\n      return a\n\nAnd so", True, False),
        ("", True, False),
        ("\n\n\n\n", False, False),
    ],
)
def test_what_goes_on_with_code(text: str, is_cut: bool, right: bool) -> None:
    found = Question(QuestionLine.of({"prompt": PROMPT, "code": "python"}), "here")
    assert found.is_correct(text, is_cut=is_cut) == right


def test_what_goes_on_outside_a_block_is_judged_to_its_end() -> None:
    found = Question(QuestionLine.of({"prompt": "import os\n", "code": "python"}), "here")
    assert found.is_correct("import sys\nprint(os)\n")
    assert not found.is_correct("import sys\nThis is it.")


def test_a_cut_program_may_end_anywhere_but_not_be_wrong() -> None:
    source = (ROOT / "gac_core/evaluation/judging.py").read_text(encoding="utf-8")
    for end in range(0, len(source), 97):
        assert compiles(source[:end], is_cut=True), source[:end][-80:]
    assert not compiles(source.replace("    return", "   return", 1) + "\n", is_cut=True)


def test_votes() -> None:
    by_answer = question(answers="Paris")
    assert by_answer.vote_key("Paris!") == by_answer.vote_key("paris") != by_answer.vote_key("")
    by_pattern = question(pattern="[0-9]+")
    assert by_pattern.vote_key("It is 12") == by_pattern.vote_key("12.") == "12"
    by_code = question(code="python")
    assert by_code.vote_key("So:\n```\nx = 1\n```\n") == by_code.vote_key("x = 1")


# ------------------------------------------------ files


def test_a_line_may_say_much_or_little(write: Write) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hm?"}]
    first = write(
        {"question": "What?", "answers": "a", "id": 1, "set": "x", "max_new_tokens": 5},
        "",
        {"messages": chat, "pattern": "a+", "id": "2"},
        {"prompt": "def f():\n", "code": "python"},
        "  ",
    )
    second = write({"question": "Who?", "answers": ["b", "c"], "set": "x"}, name="other.jsonl")
    tasks = read_questions([first, second])
    assert tasks.names == ("x", "mine")
    items = tasks.items((), 10, 0)
    assert [len(own) for own in items.values()] == [2, 2]
    assert [item.prompt for item in items["x"]] == [
        [{"role": "user", "content": "What?"}],
        [{"role": "user", "content": "Who?"}],
    ]
    assert [item.prompt for item in items["mine"]] == [chat, "def f():\n"]
    assert [i.max_new_tokens for own in items.values() for i in own] == [5, 64, 64, 256]
    assert tasks.items(("mine",), 1, 0) == {"mine": items["mine"][:1]}


def test_the_lines_that_the_docs_show_are_questions(write: Write) -> None:
    page = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    tasks = read_questions([write(shown)])
    assert {name: len(own) for name, own in tasks.items((), 9, 0).items()} == {
        "mine": 3,
        "history": 1,
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"question": "a", ', "no JSON: Expecting property name"),
        ("[1]", r"it must be a JSON object, not '\[1\]'"),
        ("[" * 100_000, "recursion"),
        ('{"question": "a", "question": "b"}', "the key 'question' stands twice"),
        ({"question": "a", "answer": "b"}, "answer: unknown option; .* has: id, set, question"),
        ({"question": "a"}, "judged is one of answers, pattern, code; it has none of them"),
        ({"question": "a", "answers": "b", "pattern": "c"}, "it has answers and pattern"),
        ({"question": "a", "prompt": "b", "answers": "c"}, "it has question and prompt"),
        ({"answers": "c"}, "asked is one of question, messages, prompt; it has none"),
        ({"question": "a", "pattern": "("}, r"pattern '\(' is no regular expression: missing \)"),
        ({"question": "a", "answers": []}, "answers: List should have at least 1 item"),
        ({"question": "a", "answers": ["b", "+"]}, "'\\+' has no letter and no digit"),
        ({"question": "a", "answers": [1]}, "valid string, got 1"),
        ({"question": " ", "answers": "b"}, "what is asked is empty"),
        ({"messages": [], "answers": "b"}, "what is asked is empty"),
        ({"messages": [{"role": "boss"}], "answers": "b"}, "message 0 has the role 'boss'"),
        ('{"question": "\\ud800", "answers": "b"}', "lone surrogate"),
        ({"question": "a", "answers": "b", "match": "last"}, "'first', 'contains' or 'exact'"),
        ({"question": "a", "pattern": "b", "match": "exact"}, "match means nothing without ans"),
        ({"question": "a", "answers": "b", "prefix": "x"}, "prefix means nothing without code"),
        ({"prompt": "a", "code": "python", "prefix": "x"}, "a prompt is its own prefix"),
        ({"question": "a", "code": "perl"}, "should be 'python', got 'perl'"),
        ({"question": "a", "answers": "b", "max_new_tokens": 0}, "equal to 1, got 0"),
    ],
)
def test_a_wrong_line_is_named(write: Write, line: Any, problem: str) -> None:
    path = write({"question": "a", "answers": "b"}, "", line)
    with pytest.raises(ConfigError, match=problem) as raised:
        read_questions([path])
    assert str(raised.value).startswith(f"{path}, line 3: ")
    assert "\n" not in str(raised.value)


def test_an_id_is_given_once(write: Write) -> None:
    path = write(*({"question": "a", "answers": "b", "id": n} for n in (1, "1", 2)))
    read_questions([path])
    other = write({"question": "a", "answers": "b", "id": 2}, name="other.jsonl")
    with pytest.raises(ConfigError, match=r"other.jsonl, line 1: the id 2 is that of .*, line 3"):
        read_questions([path, other])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "has no question"),
        (b"\n \n", "has no question"),
        ('{"question": "a", "answers": "b"}'.encode("utf-16"), "mark of UTF-16; save it as UTF-8"),
        (b'\n{"question": "\xff", "answers": "b"}', "line 2: byte 15 of the file is no UTF-8"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=problem):
        read_questions([path])


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "a", "answers": "b"}')
    (items,) = read_questions([path]).items((), 1, 0).values()
    assert [item.prompt for item in items] == [[{"role": "user", "content": "a"}]]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(ConfigError, match=r"can not be read: (Is a directory|No such file)"):
            read_questions([path])


# ------------------------------------------------ the sets of the benchmark


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_no_question_gives_its_answer_away(path: Path) -> None:
    (items,) = read_questions([path]).items((), 1000, 0).values()
    assert len(items) >= 100
    asked = [item.prompt[-1]["content"] for item in items]  # type: ignore[index]
    assert len(set(asked)) == len(asked)
    for item, text in zip(items, asked, strict=True):
        assert isinstance(item, Question)
        assert item.line.answers is not None
        assert not says(str(text), item.line.answers, "contains"), text
        assert all(item.is_correct(answer) for answer in item.line.answers)


def test_the_sets_are_there() -> None:
    assert [path.stem for path in SETS] == ["capitals", "facts", "words"]
    assert len(read_questions(SETS).names) == 3
