"""Choosing a tool, calling it, and reporting its result in a sentence."""

from dataclasses import dataclass
from typing import Any

from gac_core.chat.tools import call_text, tools_text
from gac_core.pocket.tasks.exchange import Exchange, Turn, system, user
from gac_core.pocket.tasks.talk import small_talk
from gac_core.pocket.words import COLOURS, NOUNS, THINGS, Source


@dataclass(frozen=True)
class Tool:
    """A function, the request that needs it, and the sentence that reports its result."""

    name: str
    types: dict[str, str]  # argument: JSON type
    values: dict[str, str]  # argument: kind of value
    description: str
    question: str
    sentence: str
    result: str  # kind of value


def function_schema(name: str, types: dict[str, str], description: str) -> dict[str, Any]:
    """A function as tools are described to members, its arguments by their JSON types."""
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
        "The weather in {city} is {returned}.",
        "weather",
    ),
    Tool(
        "get_time",
        {"city": "string"},
        {"city": "city"},
        "Get the time in a city.",
        "What time is it in {city}?",
        "It is {returned} in {city}.",
        "time",
    ),
    *(
        Tool(
            name,
            {"a": "integer", "b": "integer"},
            {"a": "integer", "b": "integer"},
            f"{verb} two numbers.",
            f"What is {{a}} {word} {{b}}?",
            f"{{a}} {word} {{b}} is {{returned}}.",
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
_DOERS = {  # verb: (argument: kind of value, question)
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
    """A tool that a question names, such as "What is magic_function(3)?"."""
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
        f"{called} is {{returned}}.",
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
            f"The {noun} of {{{argument}}} is {{returned}}.",
            rng.choice(("integer", "digits", "word", "colour")),
        )
    verb = rng.choice(list(_DOERS))
    kinds, question = _DOERS[verb]
    values = {argument.format(noun=noun): kind for argument, kind in kinds.items()}
    by_kind = {kind: f"{{{argument}}}" for argument, kind in values.items()}
    filled = question.format(noun=noun, **by_kind)
    return Tool(
        f"{verb}_{noun}",
        {a: "integer" if kind == "integer" else "string" for a, kind in values.items()},
        values,
        rng.choice((f"{verb.capitalize()} the {noun}.", "")),
        filled,
        f"The {noun} is {{returned}}.",
        f"={_PAST[verb]}",
    )


def tool_value(source: Source, kind: str) -> str | int:
    """A random argument or result of this kind; an unknown kind is a word to repeat: "=sent"."""
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
    """Random tools that differ in their nouns."""
    tools: list[Tool] = []
    words: set[str] = set()
    while len(tools) < count:
        known = source.split == "train" and source.rng.random() < 0.3
        tool = source.rng.choice(_KNOWN_TOOLS) if known else _new_tool(source)
        parts = set(tool.name.split("_"))  # no two tools for one noun
        if not words & parts - {"get", "find", "lookup", "of", "fetch", *_DOERS}:
            words |= parts
            tools.append(tool)
    return tools


def function_of(tool: Tool, *, with_signature: bool = False) -> dict[str, Any]:
    """A tool as a JSON-schema function."""
    return function_schema(tool.name, tool.types, _description(tool, with_signature))


def _description(tool: Tool, with_signature: bool) -> str:
    """The description of a tool; some frameworks put its Python signature before it."""
    if not with_signature:
        return tool.description
    types = ", ".join(f"{a}: {'int' if t == 'integer' else 'str'}" for a, t in tool.types.items())
    return f"{tool.name}({types}) -> str {tool.description}".rstrip()


def tool_use(source: Source, turns: int, facts: int) -> Exchange:  # noqa: ARG001
    """Choose the tool, copy its arguments, and report its result in a sentence."""
    rng = source.rng
    tools = tools_of(source, rng.choice((1, 2, 2, 3, 3, 4, 5)))
    with_signature = source.more_forms and rng.random() < 0.15
    shown = [function_of(tool, with_signature=with_signature) for tool in tools]
    if rng.random() < 0.15:
        role = rng.choice(("You are a helpful assistant.", "You are an agent that uses tools."))
        opening = system(f"{role}\n\n{tools_text(shown)}")
    else:
        opening = system(tools_text(shown))
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
                user(tool.question.format(**arguments)),
                call_text(tool.name, arguments),
            )
        )
        sentence = tool.sentence.format(**arguments, returned=result)
        made.append(Turn("final_sentence", {"role": "tool", "content": result}, sentence))
    return Exchange(opening, made)
