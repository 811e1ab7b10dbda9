"""Streams end with their answer, and law 10: what nobody reads any more is not computed."""

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

from gac_core import Ensemble
from tests.fakes import assert_rests, forwards_of, make

LONG: dict[str, Any] = {"max_new_tokens": 400}


def test_a_closed_stream_stops_within_a_round(ensemble: Ensemble) -> None:
    stream = ensemble.stream("Hello", **LONG)
    for _ in range(3):
        next(stream)
    stream.close()
    done = forwards_of(ensemble)
    assert_rests(ensemble)
    assert done < 2 * 400
    assert list(stream) == []


@pytest.mark.parametrize("way", ["break", "del", "with", "never read", "exception"])
def test_an_abandoned_stream_stops(ensemble: Ensemble, way: str) -> None:
    match way:
        case "break":
            for _ in ensemble.stream("Hello", **LONG):
                break
        case "del":
            stream = ensemble.stream("Hello", **LONG)
            next(stream)
            del stream
        case "with":
            with ensemble.stream("Hello", **LONG) as stream:
                next(stream)
        case "never read":
            ensemble.stream("Hello", **LONG)
        case "exception":
            with pytest.raises(RuntimeError), ensemble.stream("Hello", **LONG):
                raise RuntimeError
    gc.collect()
    assert_rests(ensemble)
    assert forwards_of(ensemble) < 2 * 400
    assert ensemble.generate("Hello", max_new_tokens=3).usage.steps == 3


async def test_a_cancelled_task_stops(ensemble: Ensemble) -> None:
    task = asyncio.create_task(ensemble.agenerate("Hello", **LONG))
    while not forwards_of(ensemble):
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_rests(ensemble)
    assert forwards_of(ensemble) < 2 * 400


async def test_an_abandoned_async_stream_stops(ensemble: Ensemble) -> None:
    async for _ in ensemble.astream("Hello", **LONG):
        break
    gc.collect()
    assert_rests(ensemble)
    async with ensemble.astream("Hello", **LONG) as stream:
        await anext(stream)
    assert_rests(ensemble)
    assert forwards_of(ensemble) < 4 * 400


def test_closing_a_stream_wakes_whoever_reads_it(ensemble: Ensemble) -> None:
    stream = ensemble.stream("Hello", **LONG)
    readers = [threading.Thread(target=list, args=(stream,), daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
    time.sleep(0.05)
    stream.close()
    for reader in readers:
        reader.join(10)
        assert not reader.is_alive()


async def test_closing_an_async_stream_wakes_whoever_reads_it(ensemble: Ensemble) -> None:
    stream = ensemble.astream("Hello", **LONG)

    async def read() -> int:
        return len([step async for step in stream])

    readers = [asyncio.create_task(read()) for _ in range(2)]
    await asyncio.sleep(0.05)
    stream.close()
    async with asyncio.timeout(10):
        await asyncio.gather(*readers)


async def test_a_wait_that_times_out_loses_nothing(ensemble: Ensemble) -> None:
    expected = ensemble.generate("Hello", max_new_tokens=30)
    stream, steps = ensemble.astream("Hello", max_new_tokens=30), []
    while True:
        try:
            steps.append(await asyncio.wait_for(anext(stream), 0.0005))
        except TimeoutError:
            continue
        except StopAsyncIteration:
            break
    assert tuple(steps) == expected.steps


def test_a_stream_keeps_its_ensemble() -> None:
    steps = list(make(["byte_level", "legacy"]).stream("Hello", max_new_tokens=20))
    assert len(steps) == 20
