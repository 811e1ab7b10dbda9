"""In a forked child an ensemble says at once that it can not answer there; nothing waits."""

import asyncio
import gc
import multiprocessing
import os
import weakref
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import pytest

from gac_core import Ensemble, ForkedError
from tests.fakes import make

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Later versions of Python warn of what is tried here.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
PATIENCE = 60.0  # seconds until a child that gives no answer is taken to wait for ever


def in_a_fork(work: Callable[[], Any]) -> Any:
    """What a function gives, or the error that it raises, in a forked child."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_report, args=(work, theirs), daemon=True)
    child.start()
    try:
        assert ours.poll(PATIENCE), "the child gave no answer"
        return ours.recv()
    finally:
        child.kill()
        child.join()


def _report(work: Callable[[], Any], out: Connection) -> None:
    try:
        out.send(work())
    except BaseException as error:
        out.send(error)


async def first_step(ensemble: Ensemble) -> Any:
    return await anext(ensemble.astream("Hello"))


WAYS: dict[str, Callable[[Ensemble], Any]] = {
    "generate": lambda e: e.generate("Hello").text,
    "stream": lambda e: next(e.stream("Hello")).text,
    "batch": lambda e: e.batch(["Hello"]),
    "agenerate": lambda e: asyncio.run(e.agenerate("Hello")),
    "astream": lambda e: asyncio.run(first_step(e)),
    "aload": lambda e: asyncio.run(e.aload(grammars=True)),
    "members": lambda e: len(e.members),
    "prompt_ids": lambda e: e.prompt_ids([{"role": "user", "content": "Hello"}]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("has_answered", [True, False])
def test_every_way_in_says_what_to_do(ensemble: Ensemble, way: str, has_answered: bool) -> None:
    if has_answered:
        ensemble.generate("Hello", max_new_tokens=1)
    found = in_a_fork(lambda: WAYS[way](ensemble))
    assert isinstance(found, ForkedError), found
    assert f"loaded in process {os.getpid()}" in str(found)
    assert "'spawn'" in str(found)
    assert ensemble.generate("Hello", max_new_tokens=2).usage.steps == 2  # here all is as it was


def test_a_stream_can_not_be_read_on(ensemble: Ensemble) -> None:
    with ensemble.stream("Hello", max_new_tokens=5) as steps:
        next(steps)
        assert isinstance(in_a_fork(lambda: next(steps)), ForkedError)
        assert len(list(steps)) == 4


def test_closing_and_dropping_waits_for_no_lock() -> None:
    ensemble = make(["byte_level", "legacy"])
    ensemble.generate("Hello", max_new_tokens=1)
    runtime = ensemble.runtime
    stream = ensemble.stream("Hello", max_new_tokens=2)

    def work() -> tuple[bool, bool]:
        nonlocal ensemble, stream
        stream.close()
        runtime.engine.close()
        ensemble.close()
        is_closed, gone = ensemble.is_closed, weakref.ref(ensemble)
        del stream, ensemble
        gc.collect()
        return is_closed, gone() is None

    # As if other threads were at work when the process was forked.
    with ensemble._runtime_lock, runtime.engine._lock, runtime._render_lock:
        assert isinstance(in_a_fork(partial(ensemble.generate, "Hello")), ForkedError)
        assert isinstance(in_a_fork(ensemble.__repr__), str)
        assert in_a_fork(work) == (True, True)
    assert ensemble.generate("Hello", max_new_tokens=2).usage.steps == 2
    ensemble.close()


def test_what_is_first_used_in_the_child_answers_there() -> None:
    """A lazy ensemble is a description; here it is small enough for torch to need no threads."""
    lazy = Ensemble.pocket(lazy=True)
    asked = [{"role": "user", "content": "What is 77 - 49?"}]
    assert in_a_fork(lambda: lazy.generate(asked).text) == "77 - 49 = 28"
    with lazy:
        assert lazy.generate(asked).text == "77 - 49 = 28"
