"""Questions with given answers: of the pocket tasks, with wrong answers that look right; or a file.

Each has a chat, the labels to choose from in a random order, and the one that is right.
"""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gac_core import ConfigError
from gac_core.chat.prompt import Prompt
from gac_core.chat.tools import call_text, tools_text
from gac_core.pocket import forms, tasks
from gac_core.pocket.tasks.exchange import fill
from gac_core.pocket.tasks.facts import as_context, facts_about
from gac_core.pocket.tasks.tools import function_of, tool_value, tools_of
from gac_core.pocket.words import Source

LABELS = 4
_RESULT = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")


@dataclass(frozen=True)
class Closed:
    """A question with given answers.

    Attributes:
        prompt: a chat that ends with it, or a raw text.
        labels: the answers to choose from.
        right: the one that is right.

    """

    prompt: Prompt
    labels: list[str]
    right: str


def _closed(rng: random.Random, prompt: Prompt, right: str, wrong: list[str]) -> Closed | None:
    """The question with a few of the wrong answers; None if there are too few."""
    wrong = sorted(set(wrong) - {right})
    if len(wrong) < LABELS - 1:
        return None
    labels = [right, *rng.sample(wrong, LABELS - 1)]
    rng.shuffle(labels)
    return Closed(prompt, labels, right)


def _retrieval(rng: random.Random) -> Closed | None:
    """What a text says of somebody; wrong is what it says of others, or of something else."""
    source = Source(rng, "heldout", 0.25)
    known = facts_about(source, rng.randint(10, 30))
    asked = rng.choice(known)
    others = [f.value for f in known if f is not asked and f.key == asked.key]
    others += [f.value for f in known if f is not asked and f.name == asked.name]
    values = list(dict.fromkeys(others))[: LABELS - 1]
    wrong = [asked.answer.replace(asked.value, value) for value in values]
    family = rng.choice((forms.PLAIN, forms.LANGCHAIN, forms.LLAMA_INDEX))
    prompt = fill(rng.choice(family), context=as_context(source, known), question=asked.question)
    return _closed(rng, prompt, asked.answer, wrong)


def _computed(task: str, rng: random.Random) -> Closed | None:
    """A sum or a word problem; in wrong answers one result is off, and all that follow from it."""
    item = tasks.draw(task, rng)
    steps = _RESULT.findall(item.answer)
    if not steps or (task == "arithmetic" and len(steps) > 1):
        return None
    wrong = [_with_a_slip(rng, item.answer, steps) for _ in range(4 * LABELS)]
    wrong = [answer for answer in wrong if "= -" not in answer]  # no right one is negative
    return _closed(rng, item.messages, item.answer, wrong)


def _with_a_slip(rng: random.Random, answer: str, steps: list[tuple[str, ...]]) -> str:
    slip = rng.randrange(len(steps))
    made, rest, total = "", answer, int(steps[0][0])
    for n, (_, sign, by, _result) in enumerate(steps):
        found = _RESULT.search(rest)
        assert found is not None
        before, total = total, total + int(by) if sign == "+" else total - int(by)
        total += rng.choice((-10, -1, 1, 10)) if n == slip else 0
        made += rest[: found.start()] + f"{before} {sign} {by} = {total}"
        rest = rest[found.end() :]
    return made + re.sub(rf"\b{steps[-1][3]}\b", str(total), rest)


def _tool_call(rng: random.Random) -> Closed | None:
    """Which tool a request needs; wrong are the other tools, with what the request holds."""
    source = Source(rng, "heldout", 0.25)
    tools = tools_of(source, LABELS + 1)
    tool = rng.choice(tools)
    arguments = {name: tool_value(source, kind) for name, kind in tool.values.items()}
    values = list(arguments.values()) or [source.invented()]
    wrong = [
        call_text(other.name, {name: values[n % len(values)] for n, name in enumerate(other.types)})
        for other in tools
        if other is not tool
    ]
    prompt = [
        {"role": "system", "content": tools_text([function_of(each) for each in tools])},
        {"role": "user", "content": tool.question.format(**arguments)},
    ]
    return _closed(rng, prompt, call_text(tool.name, arguments), wrong)


_MAKERS: dict[str, Callable[[random.Random], Closed | None]] = {
    "retrieval": _retrieval,
    "arithmetic": lambda rng: _computed("arithmetic", rng),
    "word_problem": lambda rng: _computed("word_problem", rng),
    "tool_call": _tool_call,
}


def pocket_questions(count: int, seed: int = 0) -> dict[str, list[Closed]]:
    """So many held-out questions of each task; the same ones for the same seed."""
    made: dict[str, list[Closed]] = {}
    for task, make in _MAKERS.items():
        rng = random.Random(f"closed {task} {seed}")
        made[task] = []
        while len(made[task]) < count:
            question = make(rng)
            if question is not None:
                made[task].append(question)
    return made


def read_closed(path: Path, count: int | None = None) -> dict[str, list[Closed]]:
    """The questions of a file: a JSON object a line, with question, labels and answer.

    Raises:
        ConfigError: a line is wrong.

    """
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [(n, line) for n, line in enumerate(lines, 1) if line.strip()][:count]
    questions = [_row(f"{path.name}, line {n}", line) for n, line in rows]
    if not questions:
        raise ConfigError(f"{path.name} has no questions")
    return {path.stem: questions}


def _row(where: str, line: str) -> Closed:
    try:
        row: dict[str, Any] = json.loads(line)
        question, labels, answer = (row[key] for key in ("question", "labels", "answer"))
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{where}: a line is a JSON object with question, labels and answer; {error!r}"
        ) from error
    if answer not in labels:
        raise ConfigError(f"{where}: the answer {answer!r} is none of the labels")
    return Closed([{"role": "user", "content": question}], labels, answer)
