import asyncio
import gc
import os
from collections.abc import Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    deadline=None,  # the machine is shared
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from tests.fakes import REAL_FOLDER

    if not REAL_FOLDER.is_dir():
        missing = pytest.mark.skip(reason=f"no real tokenizers in {REAL_FOLDER}")
        for item in items:
            if item.get_closest_marker("real_tokenizers"):
                item.add_marker(missing)


@pytest.fixture(scope="session", autouse=True)
def prepared() -> Iterator[None]:
    """What is imported here the process that only hands out the tests does not need."""
    import torch

    from tests.memo import made_once

    torch.set_num_threads(1)
    gc.freeze()  # what is imported is there to stay: no collection need look at it
    with made_once():
        yield


@pytest.fixture
def ensemble() -> Iterator[Any]:
    """Two tiny members with different tokenizers."""
    from tests.fakes import make

    with make(["byte_level", "legacy"]) as made:
        yield made


@pytest.fixture
def own_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """An event loop for a synchronous test of LlamaIndex, which takes the current one, open."""
    if asyncio.iscoroutinefunction(request.function):
        yield
        return
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
    asyncio.set_event_loop(None)
