"""The answers of a request, as they are written."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from gac_core import AsyncStream, EngineClosedError, Ensemble, Step, Usage
from gac_core.chat.deltas import Delta, DeltaReader, EndDelta
from gac_core.chat.response_format import AnswerForm
from gac_core.engine.streams import Submit
from gac_integrations.server.limits import Turns
from gac_integrations.server.requests import Wanted
from gac_integrations.shared.serialize import token_dict


async def steps_of(
    ensemble: Ensemble, wanted: Wanted, turns: Turns
) -> AsyncGenerator[tuple[int, Step]]:
    """The steps of all answers as they are made, each with the index of its answer.

    The answers to one prompt share the pass over it: the others begin when the first one has a
    step, and find its keys and values in the members' caches. Closing the generator stops all.

    Their turn is over when they are written, however slowly the steps are read.

    Raises:
        ApiError: too many requests wait for their turn.
        GacError: that of the first answer that fails.

    """
    items: asyncio.Queue[tuple[int, Step] | Exception] = asyncio.Queue()

    async def write(index: int, has_begun: asyncio.Event, may_begin: asyncio.Event | None) -> None:
        if may_begin is not None:
            await may_begin.wait()
        async with await _begun(ensemble, wanted, index) as stream:
            async for step in stream:
                has_begun.set()
                items.put_nowait((index, step))

    async def write_all() -> None:
        tasks = []
        first: dict[int, asyncio.Event] = {}  # by the prompt's identity
        for index, prompt in enumerate(wanted.prompts):
            may_begin, has_begun = first.get(id(prompt)), asyncio.Event()
            first.setdefault(id(prompt), has_begun)
            tasks.append(asyncio.create_task(write(index, has_begun, may_begin)))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def write_in_turn() -> None:
        try:
            async with turns.take(len(wanted)):
                await write_all()
        except Exception as error:
            items.put_nowait(error)

    writing = asyncio.create_task(write_in_turn())
    try:
        running = len(wanted)
        while running:
            item = await items.get()
            if isinstance(item, Exception):
                raise item
            yield item
            running -= item[1].outcome is not None
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _begun(ensemble: Ensemble, wanted: Wanted, index: int) -> AsyncStream:
    """The stream of an answer; made in a thread, since long prompts take long to encode."""
    making = asyncio.ensure_future(
        asyncio.to_thread(
            ensemble.runtime.submission, wanted.prompts[index], wanted.params[index], {}
        )
    )
    try:
        return AsyncStream(await asyncio.shield(making), owner=ensemble)
    except asyncio.CancelledError:
        making.add_done_callback(_drop)
        raise


def _drop(making: asyncio.Future[Submit]) -> None:
    """Cancel a request that nobody waits for, which also ends its span."""
    if not making.cancelled() and making.exception() is None:
        with suppress(EngineClosedError):
            AsyncStream(making.result()).close()


class Answer:
    """One answer of a request, as far as it is written.

    Args:
        index: among the answers of the request.
        form: of the answer.
        has_tokens: whether its tokens were asked for.

    Attributes:
        index: among the answers of the request.
        has_begun: whether a step of it was pushed.
        reader: has its text, thought and calls.
        tokens: those that were not taken yet, as OpenAI's API describes them and with each
            member's view; without those of a thought and without the end.
        characters_taken: of the tokens that were taken.
        end: how it ended; None before.

    """

    def __init__(self, index: int, form: AnswerForm, *, has_tokens: bool) -> None:
        self.index = index
        self.has_begun = False
        self.reader = DeltaReader(form)
        self.tokens: list[dict[str, Any]] = []
        self.characters_taken = 0
        self.end: EndDelta | None = None
        self._has_tokens = has_tokens

    def push(self, step: Step) -> list[Delta]:
        """What is certain with this step.

        Raises:
            AnswerCutError: see `DeltaReader`.

        """
        self.has_begun = True
        if self._has_tokens and not step.is_thought and not step.is_end:
            self.tokens.append(token_dict(step))
        deltas = self.reader.push(step)
        if deltas and isinstance(deltas[-1], EndDelta):
            self.end = deltas[-1]
        return deltas

    def take_tokens(self) -> list[dict[str, Any]] | None:
        """The tokens since the last time; None if none were asked for."""
        if not self._has_tokens:
            return None
        tokens, self.tokens = self.tokens, []
        self.characters_taken += sum(len(token["token"]) for token in tokens)
        return tokens

    @property
    def usage(self) -> Usage:
        """Of the answer, which has ended."""
        assert self.end is not None
        return self.end.outcome.usage


def usage_of(answers: list[Answer], per_prompt: int) -> dict[str, Any]:
    """The tokens of a request as OpenAI's API counts them; each prompt is counted once.

    How many of the prompt's were in a cache is not known, so it is not said.
    """
    usages = [answer.usage for answer in answers]
    prompt = sum(usage.prompt_tokens for usage in usages[::per_prompt])
    completion = sum(usage.completion_tokens for usage in usages)
    thought = sum(usage.thought_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": thought},
    }
