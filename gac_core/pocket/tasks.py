"""Program-generated questions the pocket members are trained and judged on.

Every task is a function ``(rng) -> (key, Item)``. The key names what makes the question new
(an entity pair, the operands, ...); its hash alone says whether the item belongs to training
or is held out, so no held-out combination is ever trained on, whatever the seeds.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Message = dict[str, Any]
Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class Item:
    """One question with the one answer that counts as right."""

    task: str
    messages: list[Message]
    answer: str

    def is_correct(self, text: str) -> bool:
        """Whether the text is the answer, outer blanks apart."""
        return text.strip() == self.answer


# ---------------------------------------------------------------- words

FIRST_NAMES = (
    "Ada Ben Cleo Dan Eva Finn Gina Hugo Iris Jack Kira Leo Mia Noah Olga Paul Quinn Rosa Sam "
    "Tina Uma Vera Walt Xena Yara Zoe Anna Bruno Carla David Ella Felix Greta Henry Ida Jonas "
    "Karin Lars Maria Nils Otto Petra Ralf Sofia Tom Ursula Viktor Wanda Alan Bella Chris Diana "
    "Emil Flora Georg Hanna Ivan Julia Klaus Laura Max Nora Oscar Pia Rita Stefan Thea Udo"
).split()
CITIES = (
    "Paris London Berlin Madrid Rome Vienna Oslo Lisbon Athens Dublin Prague Warsaw Helsinki "
    "Cairo Tokyo Lima Delhi Seoul Boston Chicago Toronto Sydney Nairobi Zurich Geneva Lyon "
    "Porto Milan Turin Hamburg Munich Cologne Bergen Graz Basel Ghent Leeds Krakow Riga Tallinn"
).split()
COLOURS = "red blue green yellow black white orange purple brown pink grey silver golden".split()
JOBS = (
    "doctor teacher baker pilot farmer painter nurse lawyer singer driver cook writer builder "
    "sailor tailor dentist gardener engineer plumber waiter judge guard librarian chemist"
).split()
ANIMALS = ("cat dog horse parrot rabbit goat hamster turtle pony sheep donkey duck fox owl").split()
THINGS = (
    "apples books coins stamps pencils marbles cards shells eggs cups stickers flowers buttons "
    "candles tickets balloons cookies oranges pears plums toys bottles boxes keys stones"
).split()

_ONSETS = "b d f g h k l m n p r s t v w z br dr fl gr kl pl st tr".split()
_VOWELS = "a e i o u".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "k", "m", "x"]


def invented_name(rng: random.Random) -> str:
    """A name no list holds, of two or three syllables, such as "Fodun"."""
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 2, 3)))]
    return ("".join(syllables) + rng.choice(_CODAS)).capitalize()


def _name(rng: random.Random) -> str:
    return invented_name(rng) if rng.random() < 1 / 3 else rng.choice(FIRST_NAMES)


def _names(rng: random.Random, count: int) -> list[str]:
    names: list[str] = []
    while len(names) < count:
        name = _name(rng)
        if name not in names:
            names.append(name)
    return names


# ---------------------------------------------------------------- retrieval


def _value(attribute: str, rng: random.Random) -> str:
    match attribute:
        case "code":
            return "".join(rng.choice("0123456789") for _ in range(4))
        case "age":
            return str(rng.randint(18, 99))
        case "city":
            return invented_name(rng) if rng.random() < 1 / 3 else rng.choice(CITIES)
        case "job":
            return rng.choice(JOBS)
        case "colour":
            return rng.choice(COLOURS)
        case "friend":
            return _name(rng)
        case _:
            return rng.choice(ANIMALS)


_ATTRIBUTES = {  # attribute: (statement, question); the statement is also the answer
    "code": ("The code of {name} is {value}.", "What is the code of {name}?"),
    "age": ("{name} is {value} years old.", "How old is {name}?"),
    "city": ("{name} lives in {value}.", "Where does {name} live?"),
    "job": ("{name} works as a {value}.", "What does {name} work as?"),
    "colour": ("The car of {name} is {value}.", "What colour is the car of {name}?"),
    "friend": ("The best friend of {name} is {value}.", "Who is the best friend of {name}?"),
    "pet": ("The pet of {name} is a {value}.", "What is the pet of {name}?"),
}
_FRAMES = (
    "{facts}\n\n{question}",
    "{facts}\n\nQuestion: {question}",
    "Context:\n{facts}\n\nQuestion: {question}\nAnswer:",
    "Use the facts to answer.\n{facts}\n{question}",
)


def retrieval(rng: random.Random) -> tuple[str, Item]:
    """A question about one of several given facts; the answer repeats the fact."""
    names = _names(rng, rng.randint(1, 4))
    facts: list[tuple[str, str, str]] = []
    for _ in range(rng.randint(2, 7)):
        name, attribute = rng.choice(names), rng.choice(list(_ATTRIBUTES))
        if all((name, attribute) != fact[:2] for fact in facts):
            facts.append((name, attribute, _value(attribute, rng)))
    name, attribute, value = rng.choice(facts)
    lines = [_ATTRIBUTES[a][0].format(name=n, value=v) for n, a, v in facts]
    question = _ATTRIBUTES[attribute][1].format(name=name)
    prompt = rng.choice(_FRAMES).format(facts="\n".join(lines), question=question)
    answer = _ATTRIBUTES[attribute][0].format(name=name, value=value)
    messages = [{"role": "user", "content": prompt}]
    if rng.random() < 0.25:
        messages.insert(0, {"role": "system", "content": "Answer from the context only."})
    return f"retrieval {name} {value}", Item("retrieval", messages, answer)


# ---------------------------------------------------------------- arithmetic


def arithmetic(rng: random.Random) -> tuple[str, Item]:
    """One sum, difference or small product."""
    kind = rng.choice("++--*")
    if kind == "*":
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        result = a * b
    else:
        top = rng.choice((20, 100, 100, 1000))
        a, b = rng.randrange(top), rng.randrange(top)
        if kind == "-" and a < b:
            a, b = b, a
        result = a + b if kind == "+" else a - b
    asked = rng.choice(("What is {}?", "Compute {}.", "{} = ?", "How much is {}?"))
    question = asked.format(f"{a} {kind} {b}")
    answer = f"{a} {kind} {b} = {result}"
    item = Item("arithmetic", [{"role": "user", "content": question}], answer)
    return f"arithmetic {min(a, b)} {kind} {max(a, b)}", item


_GAINS = ("buys {n} more", "finds {n} more", "gets {n} more", "wins {n} more")
_LOSSES = ("gives away {n}", "loses {n}", "sells {n}", "drops {n}")


def word_problem(rng: random.Random) -> tuple[str, Item]:
    """Two steps of adding and taking away, answered with the working."""
    name, thing = _name(rng), rng.choice(THINGS)
    start = rng.randint(5, 60)
    text, total, steps = [f"{name} has {start} {thing}."], start, []
    for _ in range(2):
        gain = rng.random() < 0.5 or total < 3
        n = rng.randint(2, 40) if gain else rng.randint(1, total - 1)
        text.append(f"{name} {rng.choice(_GAINS if gain else _LOSSES).format(n=n)}.")
        result = total + n if gain else total - n
        steps.append(f"{total} {'+' if gain else '-'} {n} = {result}.")
        total = result
    question = " ".join([*text, f"How many {thing} does {name} have now?"])
    answer = " ".join([*steps, f"{name} has {total} {thing}."])
    key = f"word {' '.join(steps)}"
    return key, Item("word_problem", [{"role": "user", "content": question}], answer)


# ---------------------------------------------------------------- tools

_TOOLS: dict[str, tuple[dict[str, str], str, str]] = {
    # name: (arguments: kind, question, sentence from the result)
    "get_weather": (
        {"city": "city"},
        "What is the weather in {city}?",
        "The weather in {city} is {result}.",
    ),
    "get_time": ({"city": "city"}, "What time is it in {city}?", "It is {result} in {city}."),
    "add": ({"a": "int", "b": "int"}, "What is {a} plus {b}?", "{a} plus {b} is {result}."),
    "multiply": (
        {"a": "int", "b": "int"},
        "What is {a} times {b}?",
        "{a} times {b} is {result}.",
    ),
    "get_phone": (
        {"name": "name"},
        "What is the phone number of {name}?",
        "The phone number of {name} is {result}.",
    ),
    "get_price": (
        {"item": "thing"},
        "How much do the {item} cost?",
        "The {item} cost {result} euros.",
    ),
    "send_mail": (
        {"to": "name", "subject": "colour"},
        "Send a mail to {to} about {subject}.",
        "The mail to {to} is {result}.",
    ),
}


def _argument(kind: str, rng: random.Random) -> str | int:
    match kind:
        case "city":
            return _value("city", rng)
        case "int":
            return rng.randint(2, 99)
        case "name":
            return _name(rng)
        case "thing":
            return rng.choice(THINGS)
        case _:
            return rng.choice(COLOURS)


def _result(tool: str, arguments: dict[str, Any], rng: random.Random) -> str:
    match tool:
        case "get_weather":
            return rng.choice(("sunny", "rainy", "cloudy", "windy", "foggy", "cold", "warm"))
        case "get_time":
            return f"{rng.randrange(24):02}:{rng.randrange(60):02}"
        case "add":
            return str(arguments["a"] + arguments["b"])
        case "multiply":
            return str(arguments["a"] * arguments["b"])
        case "get_phone":
            return "".join(rng.choice("0123456789") for _ in range(6))
        case "get_price":
            return str(rng.randint(1, 99))
        case _:
            return rng.choice(("sent", "delivered", "queued"))


def _tool_line(name: str) -> str:
    return f"{name}({', '.join(_TOOLS[name][0])})"


def _tool_system(name: str, rng: random.Random) -> Message:
    """The offered tools: the right one among up to three others, in random order."""
    offered = [*rng.sample([n for n in _TOOLS if n != name], rng.randint(0, 3)), name]
    rng.shuffle(offered)
    return {"role": "system", "content": "Tools:\n" + "\n".join(map(_tool_line, offered))}


def _call(rng: random.Random) -> tuple[str, dict[str, Any], str]:
    name = rng.choice(list(_TOOLS))
    kinds, question, _ = _TOOLS[name]
    arguments = {key: _argument(kind, rng) for key, kind in kinds.items()}
    return name, arguments, question.format(**arguments)


def _call_text(name: str, arguments: dict[str, Any]) -> str:
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>{body}</tool_call>"


def tool_call(rng: random.Random) -> tuple[str, Item]:
    """Choose the tool that answers the question and copy its arguments."""
    name, arguments, question = _call(rng)
    messages = [_tool_system(name, rng), {"role": "user", "content": question}]
    key = f"tool {name} {json.dumps(arguments)}"
    return key, Item("tool_call", messages, _call_text(name, arguments))


def final_sentence(rng: random.Random) -> tuple[str, Item]:
    """Answer in a sentence, given the tool's result."""
    name, arguments, question = _call(rng)
    result = _result(name, arguments, rng)
    messages = [
        _tool_system(name, rng),
        {"role": "user", "content": question},
        {"role": "assistant", "content": _call_text(name, arguments)},
        {"role": "tool", "content": result},
    ]
    answer = _TOOLS[name][2].format(**arguments, result=result)
    return f"tool {name} {json.dumps(arguments)}", Item("final_sentence", messages, answer)


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


def small_talk(rng: random.Random) -> tuple[str, Item]:
    """Greetings and what the ensemble says of itself; known by heart, so never held out."""
    questions, answer = rng.choice(_TALK)
    return "", Item("small_talk", [{"role": "user", "content": rng.choice(questions)}], answer)


# ---------------------------------------------------------------- the set

TASKS: dict[str, Callable[[random.Random], tuple[str, Item]]] = {
    "retrieval": retrieval,
    "arithmetic": arithmetic,
    "word_problem": word_problem,
    "tool_call": tool_call,
    "final_sentence": final_sentence,
    "small_talk": small_talk,
}
JUDGED = tuple(name for name in TASKS if name != "small_talk")


def split_of(key: str) -> Split:
    """Where the items of this key belong: one in eight is held out."""
    if not key:
        return "train"
    return "heldout" if hashlib.sha256(key.encode()).digest()[0] % 8 == 0 else "train"


def draw(task: str, rng: random.Random, split: Split = "train") -> Item:
    """A random item of the task from the given split."""
    if split == "heldout" and task not in JUDGED:
        raise ValueError(f"{task!r} has no held-out items; choose one of {', '.join(JUDGED)}")
    while True:
        key, item = TASKS[task](rng)
        if split_of(key) == split:
            return item


def heldout(task: str, count: int, seed: int = 0) -> Iterator[Item]:
    """The first `count` held-out items of a task; the same ones for the same seed."""
    rng = random.Random(f"heldout {task} {seed}")
    return (draw(task, rng, "heldout") for _ in range(count))
