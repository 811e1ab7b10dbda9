"""The search for a short completion: what it finds completes the text, and is short."""

import json
import random
import re

import pytest

from gac_core.grammar.completion import hints, search_end, short_end, short_text, shortest_match
from gac_core.grammar.grammar import Grammar
from gac_core.grammar.matcher import byte_matcher, bytes_in
from tests.schemas import LOOPING_PATTERNS, pattern_grammar, random_schema


def test_the_end_that_is_found_is_an_end() -> None:
    rng = random.Random(0)
    for _ in range(60):
        grammar = Grammar.json_schema(random_schema(rng))
        matcher = byte_matcher(grammar.lark)
        for _ in range(12):
            end = short_end(matcher, hints(grammar), lambda _: True)
            assert end is not None
            probe = matcher.deep_copy()
            assert probe.try_consume_tokens(list(end)) == len(end)
            assert probe.is_accepting()
            allowed = bytes_in(matcher.compute_bitmask())
            if not allowed:
                break
            matcher.consume_token(rng.choice(allowed))


@pytest.mark.parametrize(
    ("pattern", "prefix", "rest"),
    [
        (".*foo", b"", b"foo"),
        (".*foo", b"xf", b"oo"),
        ("(ab){3}/x|c{9}", b"", b"ababab/x"),
        ("[a-z]{4,}é", b"abc", None),
        ("a|bcd", b"b", b"cd"),
        ("é{3}(bbb|xy)", "ééé".encode(), b"xy"),
    ],
)
def test_the_shortest_match(pattern: str, prefix: bytes, rest: bytes | None) -> None:
    found = shortest_match(pattern, prefix)
    assert found is not None
    if rest is not None:
        assert found == rest
    assert re.fullmatch(pattern, (prefix + found).decode())


def test_nested_arrays_are_closed_though_the_same_may_follow() -> None:
    item = {"type": "string", "pattern": r"^\d{4}-\d{2}$"}
    inner = {"type": "array", "items": item, "minItems": 2}
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": inner, "minItems": 1}, "b": {"const": 1}},
        "required": ["a", "b"],
    }
    end = short_end(byte_matcher(Grammar.json_schema(schema).lark), within_budget=lambda _: True)
    assert end == b'{"a":[["0000-00","0000-00"]],"b":1}'


def test_a_shorter_way_is_found_if_the_first_is_too_long() -> None:
    grammar = Grammar.choice(["a" * 40, "zz"])
    matcher = byte_matcher(grammar.lark)
    assert short_end(matcher, within_budget=lambda end: len(end) < 5) == b"zz"


@pytest.mark.parametrize("pattern", LOOPING_PATTERNS)
@pytest.mark.parametrize("is_json", [True, False])
def test_what_a_walk_would_get_lost_in(pattern: str, is_json: bool) -> None:
    grammar = pattern_grammar(pattern, is_json=is_json)
    for begun in ("", "ab", "ab@c", "ab@c.de"):
        written = (f'{{"s": "{begun}' if is_json else begun).encode()
        matcher = byte_matcher(grammar.lark)
        assert matcher.consume_tokens(list(written))
        end = search_end(grammar, matcher, written, lambda _: True)
        assert end is not None
        assert len(end) < 20
        assert matcher.consume_tokens(list(end))
        assert matcher.is_accepting()


def test_a_pattern_and_a_format_give_hints() -> None:
    pattern, date = {"pattern": "^(ab){3}x$"}, {"type": "string", "format": "date"}
    schema = {"type": "array", "prefixItems": [{"type": "string", **pattern}, date, date]}
    grammar = Grammar.json_schema({**schema, "minItems": 3, "items": False})
    assert hints(grammar) == (b"abababx", b"0000-01-01")
    assert json.loads(short_text(grammar) or "") == ["abababx", "0000-01-01", "0000-01-01"]
    assert hints(Grammar.regex("a+")) == ()
