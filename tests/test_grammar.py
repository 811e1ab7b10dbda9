"""Law 12: with a grammar, the finished text is in the language, whatever the members want."""

import json
import random
import re
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from gac_core import ConfigError, Ensemble, GrammarError, SamplingParams, Stream
from gac_core.chat.response_format import AnswerForm
from gac_core.chat.tools import call_text
from gac_core.grammar.constraint import Constraint, GrammarEngine
from gac_core.grammar.grammar import Grammar
from gac_core.grammar.json_schema import strict_schema
from gac_core.grammar.matcher import byte_matcher
from gac_core.testing import assert_same, naively
from tests.cases import DECODERS, assert_only_greedy, draws, matrix
from tests.fakes import make, model_of
from tests.schemas import LOOPING_PATTERNS, pattern_grammar, random_schema

CHAT = [{"role": "user", "content": "Hello"}]
PROMPTS: list[Any] = ["Hello", CHAT]
FAMILIES = ("chatml", "legacy", "byte_level")  # one of them opens an answer with a space
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3},
        "age": {"type": "integer", "minimum": 18},
        "tags": {"type": "array", "items": {"enum": ["alpha", "b"]}, "minItems": 2},
        "more": {"anyOf": [{"$ref": "#/$defs/Pet"}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "more"],
    "additionalProperties": False,
    "$defs": {
        "Pet": {
            "type": "object",
            "properties": {"kind": {"type": "string"}},
            "required": ["kind"],
        }
    },
}
ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
NOW = {"name": "now", "parameters": {"type": "object", "properties": {}}}
CALLS_NOW = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


# ---------------------------------------------------------------- what is a grammar


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Grammar.json_schema({"not": {}}), "Unimplemented keys"),
        (lambda: Grammar.json_schema({"not": {}}), "leave them out, and check the answer"),
        (lambda: Grammar.json_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (lambda: Grammar.json_schema({"$ref": "#/nope"}), "'/nope' does not exist"),
        (lambda: Grammar.json_schema({"type": "string", "format": "nonsense"}), "Unknown format"),
        (lambda: Grammar.json_schema({"type": "string", "format": "x"}), "say it as a pattern"),
        (lambda: Grammar.json_schema({"minimum": 3, "maximum": 1, "type": "integer"}), "greater"),
        (lambda: Grammar.json_schema("{"), "is no JSON"),
        (lambda: Grammar.json_schema(False), "must be a mapping"),
        (lambda: Grammar.json_schema({"const": {1, 2}}), "can not be written as JSON"),
        (lambda: Grammar.regex("(?=a)b"), "look-around"),
        (lambda: Grammar.regex("a(b"), "unclosed group"),
        (lambda: Grammar.regex(r"[^\s\S]"), "no text fits"),
        (lambda: Grammar.regex(b"a"), "must be a string"),  # type: ignore[arg-type]
        (lambda: Grammar.choice([]), "one text or more"),
        (lambda: Grammar.choice("yes"), "must be a list"),
        (lambda: Grammar.choice(["a", ""]), "one character or more"),
        (lambda: Grammar.tools([]), "one function or more"),
        (lambda: Grammar.tools([NOW, NOW]), "two tools have the same name"),
        (lambda: Grammar.tools([{**ADD, "parameters": {"not": {}}}]), "of the tool 'add' can not"),
    ],
)
def test_what_can_not_be_enforced_is_refused_when_it_is_made(
    made: Callable[[], Grammar], said: str
) -> None:
    with pytest.raises(GrammarError, match=re.escape(said)) as caught:
        made()
    assert isinstance(caught.value, ConfigError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("grammar", "text", "fits"),
    [
        (Grammar.json_schema({}), '{"a": [1, 2.5e3, null, "é"]}', True),
        (Grammar.json_schema({}), '{"a": 1,}', False),
        (Grammar.json_schema('{"type": "integer"}'), "12", True),
        (Grammar.json_schema(PERSON), '{"name": "Ada", "age": 17', False),
        (Grammar.regex(r"[a-c]+/\d{2}"), "abc/12", True),
        (Grammar.regex(r"[a-c]+/\d{2}"), "abc/123", False),
        (Grammar.choice(["yes", "no", 'a "quoted" one\n']), 'a "quoted" one\n', True),
        (Grammar.choice(["yes", "no"]), "ye", False),
        (Grammar.tools([ADD]), "Just text with <tool", True),
        (Grammar.tools([ADD]), "Text, then <tool_call>", False),
        (Grammar.tools([ADD]), "Text, then <tool_call>{}", False),
        (Grammar.tools([ADD], required=True), "Text", False),
        (
            Grammar.tools([ADD, NOW]),
            CALLS_NOW + '\n<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>',
            True,
        ),
        (
            Grammar.tools([NOW], parallel=False),
            '<tool_call>{"name": "now", "arguments": {}}</tool_call>\n<tool_call>',
            False,
        ),
        (Grammar.tools([NOW]), '<tool_call>{"name": "now", "arguments": {"a": 1', False),
        (
            Grammar.tools([NOW]),
            '<tool_call>{"name": "now", "arguments": {}}</tool_call> The result is 12.',
            False,
        ),
    ],
)
def test_what_is_in_the_language(grammar: Grammar, text: str, fits: bool) -> None:
    matcher = byte_matcher(grammar.lark)
    data = list(text.encode())
    assert (matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()) == fits


# ---------------------------------------------------------------- law 12


@pytest.mark.slow
@matrix(1, method=DECODERS, third=range(3))
def test_law_12_json(method: dict[str, Any], third: int) -> None:
    """Random schemas, random members, budgets that are hardly enough: all of it fits."""
    if not draws(method):
        assert_only_greedy(FAMILIES, method, CHAT, grammar=Grammar.json_schema(PERSON))
        return
    rng = random.Random(str(method))
    with make(FAMILIES, **method) as ensemble:
        jobs = []
        for number in range(24):
            schema = random_schema(rng)
            options: dict[str, Any] = {
                "grammar": Grammar.json_schema(schema),
                "max_new_tokens": rng.choice([60, 90, 150]),
                "temperature": rng.choice([0.0, 1.0, 1.6]),
                "seed": rng.randrange(1000),
            }
            prompt = rng.choice(PROMPTS)
            if number % 3 != third:
                continue
            try:
                stream = ensemble.stream(prompt, **options)
            except GrammarError:  # there is no room for the shortest text: tested below
                continue
            jobs.append((schema, stream))
        assert len(jobs) >= 6
        for schema, stream in jobs:
            Draft202012Validator(schema).validate(json.loads(written(stream)))


@pytest.mark.slow
@matrix(1, method=DECODERS, prompt=PROMPTS)
def test_law_12_other_languages(method: dict[str, Any], prompt: Any) -> None:
    choices = ["yes", "no", "it depends, é", " perhaps"]
    regex = r"[A-Z][a-z]{2,20} (is|was) [0-9]{1,3}\.5"
    if not draws(method):
        assert_only_greedy(FAMILIES, method, prompt, grammar=Grammar.choice(choices))
        return
    grammars = (
        Grammar.choice(choices),
        Grammar.regex(regex),
        Grammar.tools([ADD, NOW], required=True),
        Grammar.tools([ADD, NOW]),
    )
    with make(FAMILIES, **method) as ensemble:
        jobs = [
            [
                ensemble.stream(
                    prompt,
                    grammar=grammar,
                    temperature=1.2 * (seed > 0),
                    seed=seed,
                    max_new_tokens=70,
                )
                for grammar in grammars
            ]
            for seed in range(4)
        ]
        for choice, match, called, free in (map(written, streams) for streams in jobs):
            assert choice in choices
            assert re.fullmatch(regex, match)
            calls = [json.loads(body) for body in CALL.findall(called)]
            assert calls
            assert CALL.sub("", called).strip() == ""
            for call in calls:
                schema = {"add": ADD, "now": NOW}[call["name"]]["parameters"]
                Draft202012Validator(schema).validate(call["arguments"])  # type: ignore[arg-type]
            assert free.count("<tool_call>") == len(CALL.findall(free))


def written(stream: Stream) -> str:
    return "".join(step.text for step in stream)


def test_free_text_is_free_beside_tools() -> None:
    question = [{"role": "user", "content": "What is 17 + 25?"}]
    with Ensemble.pocket() as ensemble:
        free = ensemble.generate(question)
        held = ensemble.generate(question, grammar=Grammar.tools([ADD]))
        assert_same(held, free)


@pytest.mark.slow
@pytest.mark.parametrize(
    "budget",
    [pytest.param(n, marks=() if n % 6 == 0 else pytest.mark.wide) for n in range(30, 80, 2)],
)
def test_it_ends_in_the_language_or_is_refused(budget: int) -> None:
    grammar = Grammar.json_schema(PERSON)
    with make(FAMILIES) as ensemble:
        try:
            output = ensemble.generate(CHAT, grammar=grammar, max_new_tokens=budget)
        except GrammarError as error:
            needed = int(re.search(r"takes (\d+) steps", str(error))[1])  # type: ignore[index]
            assert needed > budget
            again = ensemble.generate(CHAT, grammar=grammar, max_new_tokens=needed)
            Draft202012Validator(PERSON).validate(json.loads(again.text))
            return
        assert len(output.steps) <= budget
        Draft202012Validator(PERSON).validate(json.loads(output.text))
        whole = ensemble.generate(CHAT, grammar=grammar, max_new_tokens=400)
        is_whole = output.text == whole.text
        assert output.finish_reason == ("stop" if is_whole else "length")


def test_a_choice_that_fills_the_budget_is_whole() -> None:
    with make(FAMILIES) as ensemble:
        grammar = Grammar.choice(["a"])
        for budget, steps in ((1, 1), (2, 2)):
            output = ensemble.generate(CHAT, grammar=grammar, max_new_tokens=budget)
            assert (output.text, output.finish_reason) == ("a", "stop")
            assert len(output.steps) == steps


def test_text_beside_tools_has_all_its_steps() -> None:
    question = [{"role": "user", "content": "What is 17 + 25?"}]
    with Ensemble.pocket() as ensemble:
        free = ensemble.generate(question, max_new_tokens=5)
        held = ensemble.generate(question, max_new_tokens=5, grammar=Grammar.tools([ADD]))
        assert_same(held, free)
        assert held.finish_reason == "length"


@pytest.mark.slow
@pytest.mark.parametrize("pattern", LOOPING_PATTERNS)
@pytest.mark.parametrize("is_json", [True, False])
def test_patterns_in_which_a_search_for_the_end_could_get_lost(pattern: str, is_json: bool) -> None:
    with make(FAMILIES) as ensemble:
        grammar = pattern_grammar(pattern, is_json=is_json)
        text = ensemble.generate(CHAT, grammar=grammar, max_new_tokens=60, temperature=2.0).text
        assert re.search(pattern, json.loads(text)["s"] if is_json else text)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["email", "date-time", "date", "time", "duration", "uuid", "ipv6"])
def test_formats(form: str) -> None:
    schema = {"type": "object", "properties": {"s": {"type": "string", "format": form}}}
    grammar = Grammar.json_schema({**schema, "required": ["s"]})
    checker = Draft202012Validator.FORMAT_CHECKER
    with make(FAMILIES) as ensemble:
        streams = [
            ensemble.stream(CHAT, grammar=grammar, max_new_tokens=90, temperature=2.0, seed=seed)
            for seed in range(3)
        ]
        for text in map(written, streams):
            Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))


def test_what_is_put_together_is_left_open() -> None:
    part = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    other = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}
    for schema in (
        {"allOf": [part, other]},
        {**part, "anyOf": [other, {"type": "object", "properties": {"c": {"type": "null"}}}]},
    ):
        matcher = byte_matcher(Grammar.json_schema(strict_schema(schema)).lark)
        assert matcher.consume_tokens(list(b'{"a": 1, "b": 2}'))
        assert matcher.is_accepting()
    closed = strict_schema({"type": "array", "items": part})
    assert closed["items"]["additionalProperties"] is False


@pytest.mark.slow
def test_a_context_that_is_nearly_full_ends_in_the_language_too() -> None:
    grammar = Grammar.json_schema(PERSON)
    with make(FAMILIES) as ensemble:
        limit = ensemble.context_size
        assert limit is not None
        streams = []
        for length in range(limit - 200, limit, 8):
            try:
                streams.append(ensemble.stream("x" * length, grammar=grammar))
            except ConfigError:
                break
            except ValueError:  # the prompt itself is too long for a member
                break
        assert streams
        for text in map(written, streams):
            Draft202012Validator(PERSON).validate(json.loads(text))


# ---------------------------------------------------------------- twins


@pytest.mark.parametrize("families", [("chatml", "legacy"), ("chatml",), ("legacy", "neox")])
def test_the_mask_is_what_a_search_over_all_units_says(families: tuple[str, ...]) -> None:
    rng = random.Random(1)
    with make(families) as ensemble:
        union = ensemble.union
        engine = GrammarEngine(union)
        for grammar in (
            Grammar.json_schema(PERSON),
            Grammar.regex(r"(été|e|\d+ )*x"),
            Grammar.tools([ADD]),
            Grammar.choice(["Hello", "Hello world", "He"]),
        ):
            constraint = engine.constraint(grammar, 200, [])
            written = b""
            for _ in range(15):
                at = byte_matcher(grammar.lark)
                at.consume_tokens(list(written))
                allowed = set(constraint.allowed().nonzero().flatten().tolist())
                expected = set()
                for row in range(union.size):
                    unit = union.unit(row)
                    if union.is_end(row):
                        fits = at.is_accepting()
                    else:
                        is_text = union.rows.get(unit) == row or (
                            union.is_shared and row in union.vocabularies[0].text_ids
                        )
                        fits = is_text and at.validate_tokens(list(unit)) == len(unit)
                    if fits:
                        expected.add(row)
                assert allowed == expected
                units = [row for row in sorted(allowed) if not union.is_end(row)]
                if not units:
                    break
                unit = union.unit(rng.choice(units))
                constraint.advance(unit)
                written += unit


@pytest.mark.slow
@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.json_schema(PERSON),
        Grammar.json_schema({}),
        Grammar.regex(r"([a-zé ]{2})*x?"),
        Grammar.tools([ADD, NOW]),
    ],
    ids=lambda grammar: grammar.kind,
)
def test_a_draft_on_a_copy_leaves_no_trace(grammar: Grammar) -> None:
    rng = random.Random(4)
    with make(FAMILIES) as ensemble:
        union = ensemble.union
        engine = GrammarEngine(union)

        def draw(constraint: Constraint) -> bytes | None:
            rows = constraint.allowed().nonzero().flatten().tolist()
            units = [union.unit(r) for r in rows if not union.is_end(r)]
            shuffled = rng.sample(units, len(units))
            fitting = (u for u in shuffled if constraint.has_budget(u, 99, []))
            seen = list(islice(fitting, 5))  # what was only looked at leaves no trace, either
            return seen[0] if seen else None

        constraint = engine.constraint(grammar, 200, [])
        accepted: list[bytes] = []
        for _ in range(12):
            draft, drafted = constraint.copy(), list[bytes]()
            for _ in range(rng.randint(1, 6)):
                if (unit := draw(draft)) is None:
                    break
                draft.advance(unit)
                drafted.append(unit)
            for unit in drafted[: rng.randint(0, len(drafted))]:
                constraint.advance(unit)
                accepted.append(unit)
            twin = engine.constraint(grammar, 200, [])
            for unit in accepted:
                twin.advance(unit)
            assert torch.equal(constraint.allowed(), twin.allowed())
            assert constraint.end == twin.end
            assert constraint.next_of_end() == twin.next_of_end()


@pytest.mark.slow
@matrix(1, method=DECODERS, prompt=PROMPTS)
def test_the_engine_says_what_the_naive_driver_says(method: dict[str, Any], prompt: Any) -> None:
    grammar = Grammar.json_schema(PERSON)
    if not draws(method):
        assert_only_greedy(FAMILIES, method, prompt, grammar=grammar)
        return
    for sampling in ({}, {"temperature": 1.1, "seed": 5}):
        options: dict[str, Any] = {"max_new_tokens": 60, "grammar": grammar, **sampling}
        with make(FAMILIES, **method) as ensemble:
            expected, _ = naively(ensemble, prompt, **options)
            assert_same(ensemble.generate(prompt, **options), expected)
            together = ensemble.batch([prompt, "Other", prompt], **options)
            assert_same(together[0], expected)
            assert_same(together[2], expected)


def test_one_member_takes_its_best_legal_token() -> None:
    """Against a loop that tries every token of the member with plain forwards."""
    grammar = Grammar.regex("[a-z ]{200}[a-z ]*")
    with make(["chatml"]) as ensemble:
        (member,) = ensemble.members
        (ids,) = ensemble.prompt_ids("Hello")
        text = ensemble.generate("Hello", grammar=grammar, max_new_tokens=280).text
        tokens = member.tokenizer.vocabulary.token_bytes
        written = b""
        for _ in range(12):
            with torch.no_grad():
                logits = model_of(member)(input_ids=torch.tensor([ids])).logits[0, -1]
            at = byte_matcher(grammar.lark)
            at.consume_tokens(list(written))
            legal = [
                i
                for i in member.tokenizer.vocabulary.text_ids
                if at.validate_tokens(list(tokens[i])) == len(tokens[i])
            ]
            best = max(legal, key=lambda i: float(logits[i]))
            ids = [*ids, best]
            written += tokens[best]
        assert text.encode().startswith(written)


# ---------------------------------------------------------------- as users hold it


def test_a_stop_string_ends_free_text_and_no_call() -> None:
    for held in (Grammar.choice(["a"]), Grammar.tools([NOW], required=True)):
        with pytest.raises(ConfigError, match="drop one"):
            SamplingParams.of({"grammar": held, "stop": ["a"]})
    with make(FAMILIES) as ensemble:
        options: dict[str, Any] = {"grammar": Grammar.tools([NOW]), "max_new_tokens": 60}
        text = ensemble.generate(CHAT, **options).text
        assert "<tool_call>" not in text
        cut = ensemble.generate(CHAT, stop=[text[3:6]], **options)
        assert (cut.text, cut.finish_reason) == (text[: text.find(text[3:6])], "stop")
    with Ensemble.pocket() as pocket:
        messages = AnswerForm((ADD,)).messages([{"role": "user", "content": "What is 2 plus 3?"}])
        called = pocket.generate(messages, grammar=Grammar.tools([ADD]), stop=["2", '"name"', "<"])
        assert called.text == call_text("add", {"a": 2, "b": 3})


@pytest.mark.slow
async def test_async_and_streamed_are_the_same(pocket_or_tiny: Ensemble) -> None:
    options: dict[str, Any] = {"grammar": Grammar.json_schema(PERSON), "max_new_tokens": 80}
    expected = pocket_or_tiny.generate(CHAT, **options).text
    assert (await pocket_or_tiny.agenerate(CHAT, **options)).text == expected
    assert "".join([s.text async for s in pocket_or_tiny.astream(CHAT, **options)]) == expected
    assert "".join(s.text for s in pocket_or_tiny.stream(CHAT, **options)) == expected


@pytest.fixture
def pocket_or_tiny() -> Any:
    with make(FAMILIES) as ensemble:
        yield ensemble


def test_the_pocket_ensemble_extracts() -> None:
    schema = {
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "title": "Person",
        "type": "object",
        "additionalProperties": False,
    }
    question = f"Mila is 42 years old.\n\nWrite JSON that fits this schema:\n{json.dumps(schema)}"
    with Ensemble.pocket() as ensemble:
        text = ensemble.generate(
            [{"role": "user", "content": question}], grammar=Grammar.json_schema(schema)
        ).text
    assert set(json.loads(text)) == {"name", "age"}
