import asyncio
import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.fakes import REAL_FOLDER
from tests.memo import made_once

torch.set_num_threads(1)

settings.register_profile(
    "default",
    deadline=None,  # the machine is shared
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not REAL_FOLDER.is_dir():
        missing = pytest.mark.skip(reason=f"no real tokenizers in {REAL_FOLDER}")
        for item in items:
            if item.get_closest_marker("real_tokenizers"):
                item.add_marker(missing)


@pytest.fixture(scope="session", autouse=True)
def real_tokenizers_are_read_once() -> Iterator[None]:
    with made_once():
        yield


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
