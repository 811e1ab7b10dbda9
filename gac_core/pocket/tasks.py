"""Program-generated questions the pocket members are trained and judged on.

A task makes an *exchange*: a beginning (tools, a schema, a context) and any number of turns. One
exchange serves training, which learns from every answer in it, and judging, which asks for the
last one. All names, values and tools of a held-out exchange, and the combinations of numbers in
it, are kept out of training (`words.py`).
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gac_core.chat.tools import call_text, tools_text
from gac_core.pocket import forms
from gac_core.pocket.words import (
    ANIMALS,
    COLOURS,
    JOBS,
    NOUNS,
    THINGS,
    Source,
    Split,
)

Message = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """What is said to the assistant, and what it should answer."""

    task: str
    asked: Message
    answer: str


@dataclass(frozen=True)
class Exchange:
    """A conversation: what comes first (a system message, or nothing), then the turns."""

    opening: list[Message]
    turns: list[Turn]


@dataclass(frozen=True)
class Item:
    """One question, with what was said before it and the one answer that counts as right."""

    task: str
    messages: list[Message]
    answer: str

    def vote_key(self, text: str) -> str:
        """The same for texts that count as the same answer: outer blanks apart."""
        return text.strip()

    def is_correct(self, text: str) -> bool:
        """Whether the text is the answer."""
        return self.vote_key(text) == self.answer


def messages_of(exchange: Exchange, turns: int) -> list[Message]:
    """The messages up to the question of the last of so many turns."""
    messages = [*exchange.opening, exchange.turns[0].asked]
    for before, turn in zip(exchange.turns, exchange.turns[1:turns], strict=False):
        messages += [{"role": "assistant", "content": before.answer}, turn.asked]
    return messages


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _system(text: str) -> list[Message]:
    return [{"role": "system", "content": text}]


# ---------------------------------------------------------------- retrieval


@dataclass(frozen=True)
class Fact:
    """A statement, the question it answers, and the answer (the statement once more)."""

    statement: str
    question: str
    answer: str
    name: str
    key: str
    value: str


_PEOPLE = {  # key: (statement, question)
    "age": ("{name} is {value} years old.", "How old is {name}?"),
    "city": ("{name} lives in {value}.", "Where does {name} live?"),
    "job": ("{name} works as {value}.", "What does {name} work as?"),
    "car": ("The car of {name} is {value}.", "What colour is the car of {name}?"),
    "friend": ("The best friend of {name} is {value}.", "Who is the best friend of {name}?"),
    "pet": ("The pet of {name} is {value}.", "What is the pet of {name}?"),
    "code": ("The code of {name} is {value}.", "What is the code of {name}?"),
}
_KINDS = ("", "", "", "", "Project ", "Lake ", "Hotel ", "Team ")


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _value(source: Source, key: str) -> str:
    match key:
        case "age":
            return str(source.number(18, 99))
        case "city":
            return source.city()
        case "job":
            return _with_article(source.pick(JOBS))
        case "car":
            return source.pick(COLOURS)
        case "friend":
            return source.name()
        case "pet":
            return _with_article(source.pick(ANIMALS))
        case "code":
            return source.digits(4)
    match source.rng.randrange(6):
        case 0:
            return source.digits(source.rng.choice((3, 4, 5, 6)))
        case 1:
            return str(source.number(2, 99))
        case 2:
            return source.pick(COLOURS)
        case 3:
            return f"{source.number(2, 99)} {source.rng.choice(('euros', 'metres', 'points'))}"
        case _:
            return source.invented()


def _fact(source: Source, name: str) -> Fact:
    rng = source.rng
    if " " not in name and rng.random() < 0.55:
        key = rng.choice(list(_PEOPLE))
        value = _value(source, key)
        statement, question = _PEOPLE[key]
        said = statement.format(name=name, value=value)
        return Fact(said, question.format(name=name), said, name, key, value)
    key = source.pick(NOUNS)
    value = _value(source, key)
    answer = f"The {key} of {name} is {value}."
    statement = rng.choice((answer, answer, f"{name}'s {key} is {value}."))
    question = rng.choice((f"What is the {key} of {name}?", f"What is {name}'s {key}?"))
    return Fact(statement, question, answer, name, key, value)


def facts_about(source: Source, count: int) -> list[Fact]:
    """Facts of which no two answer one question; some share a name, some a key."""
    rng = source.rng
    names = [rng.choice(_KINDS) + n for n in source.names(rng.randint(1, 1 + count // 2))]
    facts: list[Fact] = []
    seen: set[tuple[str, str]] = set()
    in_vain = 0
    while len(facts) < count:
        fact = _fact(source, rng.choice(names))
        if (fact.name, fact.key) not in seen:
            seen.add((fact.name, fact.key))
            facts.append(fact)
            in_vain = 0
        elif (in_vain := in_vain + 1) == 100:  # everything there is was said of them
            names.append(source.name())
            in_vain = 0
    if rng.random() < 0.3:
        facts.sort(key=lambda fact: names.index(fact.name))
    return facts


def _as_context(source: Source, facts: list[Fact]) -> str:
    """The statements as lines, as paragraphs, or as chunks of a retriever."""
    rng = source.rng
    said = [fact.statement for fact in facts]
    match rng.randrange(5):
        case 0 | 1:
            return "\n".join(said)
        case 2:
            return " ".join(said)
        case 3:
            return "\n\n".join(said)
        case _:
            size = rng.randint(2, 4)
            chunks = [" ".join(said[i : i + size]) for i in range(0, len(said), size)]
            return "\n\n".join(chunks)


def _fill(form: forms.Form, **places: str) -> list[Message]:
    return [{"role": role, "content": text.format(**places)} for role, text in form]


def _asked_once(messages: list[Message], answer: str, task: str) -> tuple[list[Message], Turn]:
    return messages[:-1], Turn(task, messages[-1], answer)


def retrieval(source: Source, turns: int, facts: int) -> Exchange:
    """Questions about given facts; the answer repeats the fact."""
    rng = source.rng
    known = facts_about(source, facts)
    context = _as_context(source, known)
    asked = rng.sample(known, min(turns, facts))
    first = asked[0]
    kind = rng.random()
    if kind < 0.1:
        return _refined(source, known, asked)
    if kind < 0.2:
        return _after_search(source, context, asked)
    family = rng.choice((forms.PLAIN, forms.LANGCHAIN, forms.LLAMA_INDEX))
    filled = _fill(rng.choice(family), context=context, question=first.question)
    opening, turn = _asked_once(filled, first.answer, "retrieval")
    more = [Turn("retrieval", _user(fact.question), fact.answer) for fact in asked[1:]]
    return Exchange(opening, [turn, *more])


def report(source: Source, turns: int, facts: int) -> Exchange:
    """All that is said of somebody, in its order: answers of many sentences."""
    rng = source.rng
    known = facts_about(source, facts)
    context = _as_context(source, known)
    names = list(dict.fromkeys(rng.choice(known).name for _ in range(turns)))  # more told, likelier
    asked = []
    for name in names:
        form = rng.choice(
            ("Tell me all about {}.", "What do you know about {}?", "List the facts about {}.")
        )
        told = " ".join(fact.statement for fact in known if fact.name == name)
        asked.append((form.format(name), told))
    family = rng.choice((forms.PLAIN, forms.LANGCHAIN, forms.LLAMA_INDEX))
    filled = _fill(rng.choice(family), context=context, question=asked[0][0])
    opening, turn = _asked_once(filled, asked[0][1], "report")
    return Exchange(opening, [turn, *(Turn("report", _user(q), a) for q, a in asked[1:])])


def _refined(source: Source, known: list[Fact], asked: list[Fact]) -> Exchange:
    """An answer given before, and more context: repeat it, or take what the context says."""
    rng = source.rng
    turns = []
    for fact in asked:
        others = [f for f in known if f is not fact]
        if others and rng.random() < 0.5:
            context, given = _as_context(source, others), fact.answer
        else:
            context = _as_context(source, known)
            given = rng.choice(("don't know", "I don't know.", "Empty Response", fact.answer))
        filled = _fill(forms.REFINE, context=context, question=fact.question, given=given)
        turns.append(Turn("retrieval", filled[0], fact.answer))
    return Exchange([], turns)


def _after_search(source: Source, context: str, asked: list[Fact]) -> Exchange:
    """A retriever as a tool: the call copies the question, the answer is in its result."""
    rng = source.rng
    name = rng.choice(("search", "retrieve", "lookup", "query_engine_tool", "search_documents"))
    argument = rng.choice(("query", "query", "input", "question"))
    tool = _function(name, {argument: "string"}, rng.choice(("Search the documents.", "")))
    turns = []
    for fact in asked:
        call = call_text(name, {argument: fact.question})
        turns.append(Turn("tool_call", _user(fact.question), call))
        turns.append(Turn("retrieval", {"role": "tool", "content": context}, fact.answer))
    return Exchange(_system(tools_text([tool])), turns)


def condense(source: Source, turns: int, facts: int) -> Exchange:
    """A follow-up question made to stand alone, as chat engines ask before they search."""
    rng = source.rng
    made = []
    for _ in range(turns):
        *before, last = facts_about(source, max(2, min(facts, 4)))
        said = [(f.question, f.answer) for f in before]
        history = "\n".join(f"user: {q}\nassistant: {a}" for q, a in said)
        text = rng.choice(forms.CONDENSE).format(history=history, question=last.question)
        made.append(Turn("condense", _user(text), last.question))
    return Exchange([], made)


# ---------------------------------------------------------------- arithmetic


def _sum_with_working(a: int, sign: str, b: int) -> str:
    """Up to 99 at once, above it place by place."""
    result = a + b if sign == "+" else a - b
    if max(a, b) < 100:
        return f"{a} {sign} {b} = {result}"
    steps, total = [], a
    for place in (100, 10, 1):
        part = b // place % 10 * place
        if part:
            reached = total + part if sign == "+" else total - part
            steps.append(f"{total} {sign} {part} = {reached}.")
            total = reached
    return " ".join([*(steps if len(steps) > 1 else []), f"{a} {sign} {b} = {result}"])


def _arithmetic_turn(source: Source) -> Turn:
    rng = source.rng
    while True:
        sign = rng.choice("++--*")
        if sign == "*":
            a, b = rng.randint(11, 99), rng.randint(2, 9)
            tens, ones = a // 10 * 10 * b, a % 10 * b
            working = f"{tens} + {ones} = " if ones else ""
            answer = f"{a} * {b} = {working}{a * b}"
        else:
            top = rng.choice((20, 100, 100, 1000))
            a, b = rng.randrange(top), rng.randrange(top)
            if sign == "-" and a < b:
                a, b = b, a
            answer = _sum_with_working(a, sign, b)
        if source.has(f"{min(a, b)} {sign} {max(a, b)}"):
            break
    asked = rng.choice(("What is {}?", "Compute {}.", "{} = ?", "How much is {}?", "{}"))
    return Turn("arithmetic", _user(asked.format(f"{a} {sign} {b}")), answer)


def arithmetic(source: Source, turns: int, facts: int) -> Exchange:  # noqa: ARG001
    """Sums, differences and products; large ones with their working."""
    return Exchange([], [_arithmetic_turn(source) for _ in range(turns)])


_GAINS = ("buys {n} more", "finds {n} more", "gets {n} more", "wins {n} more")
_LOSSES = ("gives away {n}", "loses {n}", "sells {n}", "drops {n}")


def _word_problem_turn(source: Source) -> Turn:
    rng = source.rng
    while True:
        name, thing = source.name(), source.pick(THINGS)
        start = rng.randint(5, 60)
        text, total, steps = [f"{name} has {start} {thing}."], start, []
        for _ in range(2):
            gain = rng.random() < 0.5 or total < 3
            n = rng.randint(2, 40) if gain else rng.randint(1, total - 1)
            text.append(f"{name} {rng.choice(_GAINS if gain else _LOSSES).format(n=n)}.")
            result = total + n if gain else total - n
            steps.append(f"{total} {'+' if gain else '-'} {n} = {result}.")
            total = result
        if source.has(" ".join(steps)):
            break
    question = " ".join([*text, f"How many {thing} does {name} have now?"])
    return Turn("word_problem", _user(question), " ".join([*steps, f"{name} has {total} {thing}."]))


def word_problem(source: Source, turns: int, facts: int) -> Exchange:  # noqa: ARG001
    """Two steps of adding and taking away, answered with the working."""
    return Exchange([], [_word_problem_turn(source) for _ in range(turns)])


# ---------------------------------------------------------------- tools


@dataclass(frozen=True)
class Tool:
    """A function, what one asks to have it called, and what one says of its result."""

    name: str
    types: dict[str, str]  # argument: JSON type
    values: dict[str, str]  # argument: kind of value
    description: str
    question: str
    sentence: str
    result: str  # kind of value


def _function(name: str, types: dict[str, str], description: str) -> dict[str, Any]:
    properties = {argument: {"type": kind} for argument, kind in types.items()}
    parameters = {"type": "object", "properties": properties, "required": list(types)}
    return {"name": name, "description": description, "parameters": parameters}


_KNOWN_TOOLS = (
    Tool(
        "get_weather",
        {"city": "string"},
        {"city": "city"},
        "Get the weather in a city.",
        "What is the weather in {city}?",
        "The weather in {city} is {told}.",
        "weather",
    ),
    Tool(
        "get_time",
        {"city": "string"},
        {"city": "city"},
        "Get the time in a city.",
        "What time is it in {city}?",
        "It is {told} in {city}.",
        "time",
    ),
    *(
        Tool(
            name,
            {"a": "integer", "b": "integer"},
            {"a": "integer", "b": "integer"},
            f"{verb} two numbers.",
            f"What is {{a}} {word} {{b}}?",
            f"{{a}} {word} {{b}} is {{told}}.",
            "integer",
        )
        for name, verb, word in (
            ("add", "Add", "plus"),
            ("multiply", "Multiply", "times"),
            ("subtract", "Subtract", "minus"),
        )
    ),
)
_GETTERS = ("get_{}", "find_{}", "lookup_{}", "{}_of", "fetch_{}", "{}")
_DOERS = {  # verb: (arguments: kind, question, sentence)
    "send": ({"to": "name", "{noun}": "word"}, "Send the {noun} {word} to {name}."),
    "set": ({"{noun}": "integer"}, "Set the {noun} to {integer}."),
    "order": ({"item": "thing", "count": "integer"}, "Order {integer} {thing} for the {noun}."),
    "book": ({"{noun}": "word", "city": "city"}, "Book the {noun} {word} in {city}."),
    "delete": ({"{noun}": "word"}, "Delete the {noun} {word}."),
    "create": ({"{noun}": "word", "name": "name"}, "Create the {noun} {word} for {name}."),
}
_PAST = {
    "send": "sent",
    "set": "set",
    "order": "ordered",
    "book": "booked",
    "delete": "deleted",
    "create": "created",
}
_KEYS = ("name", "person", "city", "id", "code", "word", "key", "user")
_GET_QUESTIONS = (
    "What is the {} of {{{}}}?",
    "Get the {} of {{{}}}.",
    "What is the {} of {{{}}}?",
    "Find the {} of {{{}}}.",
    "Tell me the {} of {{{}}}.",
)
FUNCTION_WORDS = "magic secret special function compute convert tool value run test check".split()
PARAMETERS = ("x", "n", "a", "b", "input", "value", "text", "number", "query")


def _named_function(source: Source) -> Tool:
    """A tool that is asked for by its name, such as "What is magic_function(3)?"."""
    rng = source.rng
    words = [rng.choice((rng.choice(FUNCTION_WORDS), source.pick(NOUNS))) for _ in range(2)]
    name = "_".join(words[: rng.choice((1, 2, 2))])
    names = rng.sample(PARAMETERS, rng.choice((0, 1, 1, 1, 2)))
    values = {p: rng.choice(("integer", "integer", "word", "name", "number")) for p in names}
    is_number = {p: kind in ("integer", "number") for p, kind in values.items()}
    called = f"{name}({', '.join(f'{{{p}}}' for p in names)})"
    questions = [f"What is {called}?", f"What is the value of {called}?", f"Call {called}."]
    if names:
        given = " and ".join(f"{{{p}}}" for p in names)
        questions += [f"Call {name} with {given}.", f"Use {name} for {given}."]
    question = rng.choice(questions) + rng.choice(("", "", " Use the tool."))
    return Tool(
        name,
        {p: "integer" if is_number[p] else "string" for p in names},
        values,
        rng.choice((f"Applies {name}.", f"The {name} function.", f"{words[0].capitalize()}.", "")),
        question,
        f"{called} is {{told}}.",
        rng.choice(("integer", "word", "digits")),
    )


def _new_tool(source: Source) -> Tool:
    """A tool of a noun and a verb, with arguments of its own."""
    rng, noun = source.rng, source.pick(NOUNS)
    if source.more_forms and rng.random() < 0.2:
        return _named_function(source)
    if rng.random() < 0.65:
        argument = rng.choice(_KEYS)
        number = argument == "id"
        name = rng.choice(_GETTERS).format(noun)
        described = rng.choice((f"Get the {noun} of a {argument}.", f"The {noun}.", ""))
        question = rng.choice(_GET_QUESTIONS if source.more_forms else _GET_QUESTIONS[:2])
        return Tool(
            name,
            {argument: "integer" if number else "string"},
            {argument: "number" if number else rng.choice(("name", "word", "city", "digits"))},
            described,
            question.format(noun, argument),
            f"The {noun} of {{{argument}}} is {{told}}.",
            rng.choice(("integer", "digits", "word", "colour")),
        )
    verb = rng.choice(list(_DOERS))
    kinds, question = _DOERS[verb]
    values = {argument.format(noun=noun): kind for argument, kind in kinds.items()}
    by_kind = {kind: f"{{{argument}}}" for argument, kind in values.items()}
    said = question.format(noun=noun, **by_kind)
    return Tool(
        f"{verb}_{noun}",
        {a: "integer" if kind == "integer" else "string" for a, kind in values.items()},
        values,
        rng.choice((f"{verb.capitalize()} the {noun}.", "")),
        said,
        f"The {noun} is {{told}}.",
        f"={_PAST[verb]}",
    )


def tool_value(source: Source, kind: str) -> str | int:
    rng = source.rng
    match kind:
        case "city":
            return source.city()
        case "name":
            return source.name()
        case "word":
            is_foreign = source.more_forms and rng.random() < 0.08
            return source.foreign() if is_foreign else source.invented()
        case "thing":
            return source.pick(THINGS)
        case "digits":
            return source.digits(rng.randint(3, 6))
        case "integer":
            return rng.randint(2, 99)
        case "number":
            return rng.randint(2, 9999)
        case "colour":
            return source.pick(COLOURS)
        case "weather":
            return rng.choice(("sunny", "rainy", "cloudy", "windy", "foggy", "cold", "warm"))
        case "time":
            return f"{rng.randrange(24):02}:{rng.randrange(60):02}"
        case _:
            return rng.choice((kind[1:], kind[1:], "done", "ok"))


def tools_of(source: Source, count: int) -> list[Tool]:
    tools: list[Tool] = []
    words: set[str] = set()
    while len(tools) < count:
        known = source.split == "train" and source.rng.random() < 0.3
        tool = source.rng.choice(_KNOWN_TOOLS) if known else _new_tool(source)
        told = set(tool.name.split("_"))  # no two tools for one noun
        if not words & told - {"get", "find", "lookup", "of", "fetch", *_DOERS}:
            words |= told
            tools.append(tool)
    return tools


def function_of(tool: Tool, *, with_signature: bool = False) -> dict[str, Any]:
    """A tool as a JSON-schema function."""
    return _function(tool.name, tool.types, _description(tool, with_signature))


def _description(tool: Tool, with_signature: bool) -> str:
    """What a tool is said to do; some frameworks put its Python signature before it."""
    if not with_signature:
        return tool.description
    types = ", ".join(f"{a}: {'int' if t == 'integer' else 'str'}" for a, t in tool.types.items())
    return f"{tool.name}({types}) -> str {tool.description}".rstrip()


def tool_use(source: Source, turns: int, facts: int) -> Exchange:  # noqa: ARG001
    """Choose the tool, copy its arguments, and tell its result in a sentence."""
    rng = source.rng
    tools = tools_of(source, rng.choice((1, 2, 2, 3, 3, 4, 5)))
    with_signature = source.more_forms and rng.random() < 0.15
    shown = [function_of(tool, with_signature=with_signature) for tool in tools]
    if rng.random() < 0.15:
        role = rng.choice(("You are a helpful assistant.", "You are an agent that uses tools."))
        opening = _system(f"{role}\n\n{tools_text(shown)}")
    else:
        opening = _system(tools_text(shown))
    made: list[Turn] = []
    for _ in range(turns):
        if source.more_forms and rng.random() < 0.1:  # not everything needs a tool
            made += small_talk(source, 1, 0).turns
            continue
        tool = rng.choice(tools)
        arguments = {a: tool_value(source, kind) for a, kind in tool.values.items()}
        result = str(tool_value(source, tool.result))
        made.append(
            Turn(
                "tool_call",
                _user(tool.question.format(**arguments)),
                call_text(tool.name, arguments),
            )
        )
        sentence = tool.sentence.format(**arguments, told=result)
        made.append(Turn("final_sentence", {"role": "tool", "content": result}, sentence))
    return Exchange(opening, made)


# ---------------------------------------------------------------- extraction

_TITLES = ("Person", "Profile", "Record", "Entry", "Item", "Output", "Info", "Card")


@dataclass(frozen=True)
class _Record:
    text: str
    schema: dict[str, Any]
    value: dict[str, Any]


def _record(source: Source) -> _Record:
    """Sentences about somebody, a schema that names some of it, and what fits the schema."""
    rng = source.rng
    name = source.name()
    chosen: dict[str, Fact] = {}
    wanted = rng.randint(1, 4)
    while len(chosen) < wanted + rng.randint(0, 2):
        fact = _fact(source, name)
        chosen.setdefault(fact.key, fact)
    facts = list(chosen.values())
    fields: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    named = rng.random() < 0.7
    if named:
        fields["name"], properties["name"] = name, {"type": "string"}
    for fact in rng.sample(facts, wanted):
        is_number = fact.value.isdigit() and fact.value[0] != "0" and rng.random() < 0.7
        fields[fact.key] = int(fact.value) if is_number else fact.value
        properties[fact.key] = {"type": "integer" if is_number else "string"}
    sentences = [fact.statement for fact in facts]
    if rng.random() < 0.2:
        things = [source.pick(THINGS) for _ in range(rng.randint(2, 4))]
        things = list(dict.fromkeys(things))
        listed = ", ".join(things[:-1]) + (" and " if things[:-1] else "") + things[-1]
        sentences.append(f"{name} likes {listed}.")
        fields["likes"] = things
        properties["likes"] = {"type": "array", "items": {"type": "string"}}
    title = rng.choice(_TITLES)
    schema: dict[str, Any] = {
        "properties": properties,
        "required": list(properties),
        "title": title,
        "type": "object",
    }
    if rng.random() < 0.25 and len(fields) > 2:  # the last fields as an object of their own
        cut = rng.randint(1, len(fields) - 1)
        inner = {key: fields.pop(key) for key in list(fields)[cut:]}
        kinds = {key: properties.pop(key) for key in inner}
        part = rng.choice(("details", "data", "more", "extra"))
        reference = part.capitalize()
        fields[part], properties[part] = inner, {"$ref": f"#/$defs/{reference}"}
        nested = {
            "properties": kinds,
            "required": list(kinds),
            "title": reference,
            "type": "object",
        }
        schema = {"$defs": {reference: nested}, **schema, "required": list(properties)}
    if rng.random() < 0.5:  # as pydantic writes it
        for each in (*schema.get("$defs", {}).values(), schema):
            each["properties"] = {
                key: kind if "$ref" in kind else {"title": key.capitalize(), **kind}
                for key, kind in each["properties"].items()
            }
    if rng.random() < 0.3:  # others are told of too
        others = [_fact(source, source.name()) for _ in range(rng.randint(1, 3))]
        sentences += [fact.statement for fact in others if fact.key not in chosen]
    rng.shuffle(sentences)
    return _Record(" ".join(sentences), schema, fields)


_REQUESTS = ("{}", "{}", "Extract the data: {}", "Extract from this text: {}", "Text: {}")


def extraction(source: Source, turns: int, facts: int) -> Exchange:  # noqa: ARG001
    """Named fields of a short text as JSON of a shown schema."""
    rng = source.rng
    made: list[Turn] = []
    opening: list[Message] = []
    for _ in range(turns):
        record = _record(source)
        text = rng.choice(_REQUESTS).format(record.text)
        schema = json.dumps(record.schema)
        answer = json.dumps(record.value)
        forms_now = forms.SCHEMA if not made else forms.SCHEMA[1:]
        if not made and rng.random() < 0.3:  # as the arguments of a function
            function = {"name": record.schema["title"], "parameters": record.schema}
            call = call_text(str(function["name"]), record.value)
            opening = _system(tools_text([function]))
            made.append(Turn("extraction", _user(text), call))
            continue
        # The long form with an example in it is rarer than the short ones.
        form = rng.choices(forms_now, [3, 3, 1][-len(forms_now) :])[0]
        *before, asked = _fill(form, text=text, schema=schema)
        opening = before or opening
        made.append(Turn("extraction", asked, answer))
    return Exchange(opening, made)


# ---------------------------------------------------------------- small talk

_TALK = (
    (("Hello", "Hi", "Hello!", "Hi!", "Hey"), "Hello! How can I help you?"),
    (("Good morning", "Good morning!"), "Good morning! How can I help you?"),
    (("How are you?", "Hello, how are you?"), "I am fine, thank you. How can I help you?"),
    (
        ("Who are you?", "What are you?", "What is your name?"),
        "I am a pocket ensemble: three tiny models that write one text together.",
    ),
    (
        ("What can you do?", "Help", "How can you help me?"),
        "I can add and subtract, find facts in a short text, and call tools.",
    ),
    (("Thank you", "Thanks", "Thank you!", "Thanks!"), "You are welcome!"),
    (("Bye", "Goodbye", "Bye!", "Goodbye!"), "Goodbye!"),
)


def small_talk(source: Source, turns: int, facts: int) -> Exchange:  # noqa: ARG001
    """Greetings and what the ensemble says of itself; known by heart, so never held out."""
    made = []
    for _ in range(turns):
        questions, answer = source.rng.choice(_TALK)
        made.append(Turn("small_talk", _user(source.rng.choice(questions)), answer))
    return Exchange([], made)


# ---------------------------------------------------------------- the set

_LONGEST_PROMPT = 4000  # characters; fewer than 2,000 tokens of each member
_LONG_ANSWER = range(150, 301)  # characters of a long task's answer; 70 to 190 tokens of a member

Maker = Callable[[Source, int, int], Exchange]
MAKERS: dict[str, Maker] = {
    "retrieval": retrieval,
    "report": report,
    "arithmetic": arithmetic,
    "word_problem": word_problem,
    "tool_use": tool_use,
    "extraction": extraction,
    "condense": condense,
    "small_talk": small_talk,
}
JUDGED: dict[str, Maker] = {  # task: what makes exchanges with turns of it
    "retrieval": retrieval,
    "arithmetic": arithmetic,
    "word_problem": word_problem,
    "tool_call": tool_use,
    "final_sentence": tool_use,
    "extraction": extraction,
}
LONG: dict[str, Maker] = {"report": report}  # judged when asked for by name
_ASKED = JUDGED | LONG


def draw(task: str, rng: random.Random, split: Split = "heldout") -> Item:
    """A random item of the task: mostly a first question, sometimes one after others."""
    source = Source(rng, split, 0.25)
    while True:
        turns = rng.choice((1, 1, 1, 1, 2, 3))
        facts = rng.randint(9, 40) if rng.random() < 0.25 else rng.randint(2, 8)
        exchange = _ASKED[task](source, turns, facts)
        asked = [i for i, turn in enumerate(exchange.turns) if turn.task == task]
        messages = messages_of(exchange, asked[-1] + 1)
        answer = exchange.turns[asked[-1]].answer
        if task in LONG and len(answer) not in _LONG_ANSWER:
            continue
        if sum(len(message["content"]) for message in messages) <= _LONGEST_PROMPT:
            return Item(task, messages, answer)


def heldout(task: str, count: int, seed: int = 0) -> Iterator[Item]:
    """The first `count` held-out items of a task; the same ones for the same seed."""
    rng = random.Random(f"heldout {task} {seed}")
    return (draw(task, rng) for _ in range(count))
