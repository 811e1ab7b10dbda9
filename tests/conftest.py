import asyncio
import gc
import os
from collections.abc import Iterator
from pathlib import Path
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


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two model folders as `save_pretrained` writes them."""
    from tests.fakes import pair

    root = tmp_path_factory.mktemp("models")
    for family in ("chatml", "legacy"):
        model, tokenizer = pair(family)
        model.save_pretrained(root / family)
        tokenizer.save_pretrained(root / family)
    return root / "chatml", root / "legacy"


@pytest.fixture
def folders(saved: tuple[Path, Path]) -> tuple[str, str]:
    """The same as arguments of the command line."""
    first, second = saved
    return str(first), str(second)


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


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The exporter of a tracer provider that is set for one test; it keeps the spans that end."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)  # a program may set one only once
    yield exporter
    provider.shutdown()
