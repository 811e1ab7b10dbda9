"""The code blocks of the guides run, from top to bottom, in a folder with the files they name."""

import ast
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import PromptTemplate, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.schema import Document
from llama_index.core.tools import QueryEngineTool
from pydantic import BaseModel

from gac_core import Ensemble, EnsembleConfig, pocket
from gac_core.testing import Speaker, thinking_tokenizer
from gac_integrations.llama_index import GaCLLM
from tests.test_docs import ROOT, blocks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*is in beta"),
]


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return "sunny"


def get_time(city: str) -> str:
    """Get the time in a city."""
    return "noon"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that guides name."""
    config = EnsembleConfig(members=pocket.members())
    (tmp_path / "ensemble.yaml").write_text(config.to_yaml())
    rows = [
        {"set": "history", "question": f"What is {n} + 2?", "answers": [f"{n + 2}"]} for n in (1, 2)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prose.txt").write_text("Mila lives in Rome. Tom lives in Oslo. " * 40)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reasoners() -> Ensemble:
    tokenizer = thinking_tokenizer("hybrid")
    speaker = Speaker(tokenizer, "<think>\nI add.\n</think>\n\nIt is 42.")
    return Ensemble.from_models([(speaker, tokenizer)])


def for_langchain() -> dict[str, Any]:
    return {
        "get_weather": get_weather,
        "get_time": get_time,
        "Person": Person,
        "reasoners": reasoners(),
    }


def for_llama_index() -> dict[str, Any]:
    llm = GaCLLM(model="pocket")
    index = SummaryIndex.from_documents([Document(text="Mila lives in Rome.")])
    tools = [
        QueryEngineTool.from_defaults(index.as_query_engine(llm=llm), name=name, description=name)
        for name in ("people", "cities")
    ]
    return {
        "index": index,
        "get_weather": get_weather,
        "Person": Person,
        "FunctionAgent": FunctionAgent,
        "PromptTemplate": PromptTemplate,
        "query_engine_tools": tools,
    }


GUIDES: dict[str, Callable[[], dict[str, Any]]] = {
    "langchain": for_langchain,
    "llama_index": for_llama_index,
    "thoughts": dict,
    "decisions": dict,
    "evaluation": dict,
}


@pytest.mark.parametrize("name", GUIDES)
async def test_the_blocks_of_a_guide_run(name: str, here: Path) -> None:
    """What a block needs and does not make is what its reader has: tools, documents, models."""
    page = ROOT / f"docs/{name}.md"
    codes = blocks(page, "python")
    assert codes
    session: dict[str, Any] = GUIDES[name]()
    for code in codes:
        done = eval(compile(code, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), session)
        if inspect.isawaitable(done):
            await done
