"""Decisions of an ensemble, several at a time and within a time limit."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any

from gac_core import AsyncStream, Choice, Ensemble, Stream
from gac_core.chat.prompt import Prompt
from gac_core.decisions import Prior, choice_of, submission
from gac_core.engine.streams import Submit
from gac_integrations.shared.deadline import Deadline


@dataclass(frozen=True)
class Decision:
    """What is to be decided.

    Attributes:
        prompt: a chat or a text.
        labels: the answers to choose from, two or more.
        prior: see `Ensemble.choose`.

    """

    prompt: Prompt
    labels: Sequence[str]
    prior: Prior = False


def question_chat(
    state: str, asked: str, labels: Sequence[str], meanings: Sequence[str | None]
) -> list[dict[str, str]]:
    """A chat that asks about a state, and says before which answers there are.

    Args:
        state: what is asked about.
        asked: the question.
        labels: the answers to choose from.
        meanings: what each of them means, where it does not say so itself.

    """
    told = [f"{n}: {m}" for n, m in zip(labels, meanings, strict=True) if m is not None]
    form = "\n".join([f"Answer with one of these: {', '.join(labels)}", *told])
    user = f"{state}\n\n{asked}"
    return [{"role": "system", "content": form}, {"role": "user", "content": user}]


def decided(
    ensemble: Ensemble,
    decisions: Sequence[Decision],
    options: Mapping[str, Any],
    deadline: Deadline,
) -> list[Choice]:
    """What is decided, computed together.

    Args:
        ensemble: decides.
        decisions: any number.
        options: of all of them: length, end and temperature of `Ensemble.choose`.
        deadline: of each.

    Raises:
        DeadlineError: one was not made in time.

    """
    submits = _submits(ensemble, decisions, options)
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(submit, owner=ensemble)) for submit in submits]
        found = []
        for stream in streams:
            with deadline.limiting(stream):
                steps = list(stream)
            found.append(choice_of(steps))
        return found


async def adecided(
    ensemble: Ensemble,
    decisions: Sequence[Decision],
    options: Mapping[str, Any],
    deadline: Deadline,
) -> list[Choice]:
    """`decided` for asyncio; cancelling the task stops the computing."""
    await ensemble.aload()
    # In a thread, since long prompts take long to encode.
    submits = await asyncio.to_thread(_submits, ensemble, decisions, options)
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(AsyncStream(submit, owner=ensemble))
            for submit in submits
        ]
        found = []
        for stream in streams:
            with deadline.limiting(stream):
                steps = [step async for step in stream]
            found.append(choice_of(steps))
        return found


def _submits(
    ensemble: Ensemble, decisions: Sequence[Decision], options: Mapping[str, Any]
) -> list[Submit]:
    """All of them checked, before any is begun."""
    return [
        submission(ensemble.runtime, each.prompt, each.labels, each.prior, options)
        for each in decisions
    ]
