"""Regular expressions mean what they mean to Python's `re`."""

import json
import re
import string
import warnings
from functools import lru_cache

import pytest
from hypothesis import given, settings, strategies as st

from gac_core import GrammarError
from gac_core.grammar.grammar import Grammar
from gac_core.grammar.matcher import byte_matcher

ODD = "é٣²ßſK\u00a0\u2028\u0301😀"
CHARACTERS = [chr(code) for code in range(128)] + list(ODD)
TEXTS = [*CHARACTERS, "", "aa", "aaa", "ab", "ba", "ab #", "b]", "a{", "a{}", "a{,2}", "a{1,2,3}"]


start = lru_cache(maxsize=4)(byte_matcher)


def fits(grammar: Grammar, text: str) -> bool:
    matcher = start(grammar.lark).deep_copy()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and bool(matcher.is_accepting())


def matches(pattern: str, text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of sets within sets, which Python has not
        return re.fullmatch(pattern, text) is not None


def test_every_character_that_re_escapes_is_itself() -> None:
    """Alone, in a set, and all of them in a row; whether it needs the escape or not."""
    for character in CHARACTERS:
        escapes = [re.escape(character), f"[{re.escape(character)}]"]
        if character not in string.ascii_letters + string.digits:
            escapes += [f"\\{character}", f"[\\{character}]", f"[^\\{character}]"]
        for pattern in escapes:
            grammar = Grammar.regex(pattern)
            for text in CHARACTERS:
                assert fits(grammar, text) == matches(pattern, text), (pattern, text)
    whole = "".join(CHARACTERS)
    assert fits(Grammar.regex(re.escape(whole)), whole)


@given(st.text(st.sampled_from(CHARACTERS) | st.characters(exclude_categories=["Cs"])))
def test_an_escaped_text_is_that_text_alone(text: str) -> None:
    grammar = Grammar.regex(re.escape(text))
    assert fits(grammar, text)
    for other in (repr(text)[1:-1], text + "\n", text[:-1], text.replace("\n", "\\n")):
        assert fits(grammar, other) == (other == text)


def escaped(character: str) -> str:
    return character if character.isalnum() and character.isascii() else f"\\{character}"


ITEMS = st.sampled_from(CHARACTERS).map(escaped) | st.sampled_from(
    [r"\x41", r"\u00e9", r"\U0001F600", r"\n", r"\t", r"\d", r"\D", r"\N{DIGIT ONE}", r"\012"]
)
IN_SETS = ITEMS | st.sampled_from([*"[&|~.^/#- {", r"\b", r"\1", "a-c", "+--", "!-/", "[-a"])
SETS = st.tuples(
    st.sampled_from(["[", "[^", "[]", "[^]", "[-"]), st.lists(IN_SETS, min_size=1)
).map(lambda parts: parts[0] + "".join(parts[1]) + "]")
ONES = ITEMS | SETS | st.sampled_from([".", "/", "}", "]", "(?:a|b)", "(?P<x>a|)", "(?i:k)"])
REPEATS = ["", "", "*", "+?", "{2}", "{,2}", "{1,}", "{,}", "{", "{}", "{1,a}", "(?#so)", "(?#so)?"]
PATTERNS = st.lists(st.tuples(ONES, st.sampled_from(REPEATS)).map("".join), max_size=4).map("".join)


@settings(max_examples=200)
@given(PATTERNS, st.data())
def test_a_pattern_matches_what_re_matches(pattern: str, data: st.DataObject) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            compiled = re.compile(pattern)
        except re.error:  # such as a range whose end comes before its beginning
            return
        own = [] if "[^" in pattern else [data.draw(st.from_regex(compiled, fullmatch=True))]
    try:
        grammar = Grammar.regex(pattern)
    except GrammarError:  # no text fits it
        assert not any(matches(pattern, text) for text in TEXTS + own), pattern
        return
    for text in TEXTS + own:
        assert fits(grammar, text) == matches(pattern, text), (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"a\Z", "a"),
        (r"\<\>", "<>"),
        ("(?x)\n  (?: a  # or [\n | [ #] ) {2}  \\ \n", "a# "),
        (r"(?xi) B \# (?# a # here )", "b#"),
        (r"[a&&b]+", "a&b"),
        (r"[[a]", "["),
        (r"[+--]+", "+,-"),
        (r"a{,2}b{,2}", "b"),
        (r"a{1,2,3}", "a{1,2,3}"),
        (r"\0[\0]\012", "\0\0\n"),
    ],
)
def test_what_the_engine_reads_otherwise(pattern: str, text: str) -> None:
    assert matches(pattern, text)
    assert fits(Grammar.regex(pattern), text)
    in_json = Grammar.json_schema({"type": "string", "pattern": pattern})
    assert fits(in_json, json.dumps(text))
    names = {"patternProperties": {pattern: {"type": "null"}}, "additionalProperties": False}
    assert fits(Grammar.json_schema({"type": "object", **names}), json.dumps({text: None}))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a++b", "'++', which never gives back what it took"),
        ("a{2}+", "'{2}+', which never gives back"),
        (r"\N{NO SUCH}", "no character has this name"),
        ("(?=a)b", "without look-around"),
        (r"\bword\b", r"without look-around, \b"),
        (r"(a|b)\1", "write out what the group may be"),
    ],
)
def test_what_is_refused_says_why(pattern: str, said: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(said)):
        Grammar.regex(pattern)


def test_what_only_the_engine_has_is_kept() -> None:
    assert fits(Grammar.regex(r"\p{Lu}[\p{Ll}[:digit:]]+\x{41}"), "Éé1A")
