"""Conversations of exchanges, as a member reads them in training."""

import random
from dataclasses import dataclass

from gac_core.pocket import tasks
from gac_core.pocket.tasks.exchange import Message
from gac_core.pocket.training.recipes import PHASES, Phase, Recipe
from gac_core.pocket.words import Source


@dataclass(frozen=True)
class Conversation:
    """Messages that end with an answer; the assistant's answers in them are learned."""

    messages: list[Message]
    answers: list[str]


def conversation(
    recipe: Recipe, length: int, rng: random.Random, phase: Phase = PHASES[0]
) -> Conversation:
    """Exchanges in the member's own dose, one after another, to about `length` tokens or more.

    Many answers to one context teach more per token than one, and many turns are what a chat is.
    """
    source = Source(rng, "train", phase.made_up, phase.spliced, phase.more_forms)
    dose = recipe.later_dose if phase.later_dose else recipe.dose
    if phase.more_forms:
        dose = {**dose, "tool_use": dose["tool_use"] + 2, "report": 1.5}
    names, weights = list(dose), list(dose.values())
    facts = recipe.buckets[length][1]
    messages: list[Message] = []
    answers: list[str] = []
    characters = 0
    while characters < 4 * length:
        task = rng.choices(names, weights)[0]
        count = rng.randint(*facts)
        turns = 1 if rng.random() < 0.2 else rng.randint(1, count)
        exchange = tasks.MAKERS[task](source, turns, count)
        if messages and exchange.opening:
            continue  # a system message stands at the beginning or nowhere
        messages += exchange.opening
        for turn in exchange.turns:
            messages += [turn.asked, {"role": "assistant", "content": turn.answer}]
            answers.append(turn.answer)
        characters = sum(len(m["content"]) + 12 for m in messages)
    return Conversation(messages, answers)
