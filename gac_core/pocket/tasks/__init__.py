"""Program-generated questions that the pocket members are trained and judged on.

A task makes an *exchange* (`exchange.py`), whose names, values and tools, and the combinations of
numbers in it, are either in training or held out (`words.py`). Each file makes those of one family
of tasks; here are their names, and the items that judge.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from gac_core.pocket.tasks import arithmetic, extraction, report, retrieval, talk, tools
from gac_core.pocket.tasks.exchange import Maker, Message, messages_of
from gac_core.pocket.words import Source, Split

MAKERS: dict[str, Maker] = {  # of all that is trained
    "retrieval": retrieval.retrieval,
    "report": report.report,
    "arithmetic": arithmetic.arithmetic,
    "word_problem": arithmetic.word_problem,
    "tool_use": tools.tool_use,
    "extraction": extraction.extraction,
    "condense": talk.condense,
    "small_talk": talk.small_talk,
}
JUDGED: dict[str, Maker] = {  # task: what makes exchanges with turns of it
    "retrieval": retrieval.retrieval,
    "arithmetic": arithmetic.arithmetic,
    "word_problem": arithmetic.word_problem,
    "tool_call": tools.tool_use,
    "final_sentence": tools.tool_use,
    "extraction": extraction.extraction,
}
LONG: dict[str, Maker] = {"report": report.report}  # judged when asked for by name

_MAKER_OF = JUDGED | LONG
_LONGEST_PROMPT = 4000  # characters; fewer than 2,000 tokens of each member
_FEWEST_STEPS = 160  # that an answer may take
_LONG_ANSWER = range(150, 301)  # characters of a long task's answer; 70 to 190 tokens of a member


@dataclass(frozen=True)
class Item:
    """One question, with the messages before it and the one answer that counts as right."""

    task: str
    messages: list[Message]
    answer: str

    @property
    def prompt(self) -> list[Message]:
        """The messages."""
        return self.messages

    @property
    def max_new_tokens(self) -> int:
        """The most steps an answer may take, whose units may be bytes: some, or the right one's."""
        return max(_FEWEST_STEPS, len(self.answer.encode()) + 2)  # a way to open, and the end

    def vote_key(self, text: str) -> str:
        """What texts that count as the same answer have in common: all but outer blanks."""
        return text.strip()

    def is_correct(self, text: str, *, is_cut: bool = False) -> bool:  # noqa: ARG002
        """Whether the text is the answer."""
        return self.vote_key(text) == self.answer


def draw(task: str, rng: random.Random, split: Split = "heldout") -> Item:
    """A random item of the task: mostly a first question, sometimes one after others."""
    source = Source(rng, split, 0.25)
    while True:
        turns = rng.choice((1, 1, 1, 1, 2, 3))
        facts = rng.randint(9, 40) if rng.random() < 0.25 else rng.randint(2, 8)
        exchange = _MAKER_OF[task](source, turns, facts)
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
