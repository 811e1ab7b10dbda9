"""Questions answered by an agent with tools: ``python -m benchmarks.agent [--json]``.

Each question has an agent of its own (LangChain's `create_agent`) with one to three held-out tools,
one of which answers it. It counts if the agent calls that tool once and no other, with exactly the
right arguments, and its answer tells the result. Each member is also asked alone.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.errors import GraphRecursionError

from gac_core import Ensemble, pocket
from gac_core.pocket.tasks.tools import Tool, function_of, tool_value, tools_of
from gac_core.pocket.words import Source
from gac_integrations.langchain import ChatGaC, GaCModelError

Calls = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Asked:
    """A question, the tools there are, the call that is right, and its result."""

    question: str
    tools: list[Tool]
    call: tuple[str, dict[str, Any]]
    result: str


def questions(count: int, seed: int) -> Iterator[Asked]:
    """Held-out questions; the same ones for the same seed."""
    source = Source(random.Random(f"agent {seed}"), "heldout", made_up=0.25)
    for _ in range(count):
        tools = tools_of(source, source.rng.choice((1, 2, 2, 3, 3)))
        tool = source.rng.choice(tools)
        arguments = {name: tool_value(source, kind) for name, kind in tool.values.items()}
        result = str(tool_value(source, tool.result))
        yield Asked(
            tool.question.format(**arguments),
            tools,
            (tool.name, arguments),
            result,
        )


def is_right(llm: ChatGaC, asked: Asked) -> bool:
    """Whether an agent answers the question."""
    calls: Calls = []
    agent = create_agent(llm, [callable_tool(tool, asked.result, calls) for tool in asked.tools])
    try:
        done = agent.invoke(
            {"messages": [HumanMessage(asked.question)]}, config={"recursion_limit": 10}
        )
    except (GraphRecursionError, GaCModelError):  # it calls for ever, or its budget ended a call
        return False
    return calls == [asked.call] and asked.result in done["messages"][-1].text


def callable_tool(tool: Tool, result: str, calls: Calls) -> BaseTool:
    """A tool that writes its calls down, and whose result is always the same."""

    def call(**arguments: Any) -> str:
        calls.append((tool.name, arguments))
        return result

    function = function_of(tool)
    return StructuredTool.from_function(
        call,
        name=tool.name,
        description=tool.description or tool.name.replace("_", " "),
        args_schema={**function["parameters"], "title": tool.name},
    )


def measured(count: int, seed: int = 0, *, alone: bool = True) -> dict[str, float]:
    """The share of right answers of all together and, if asked for, of each member alone."""
    asked = list(questions(count, seed))
    figures: dict[str, float] = {}
    for name in pocket.NAMES if alone else ():
        with Ensemble.from_pretrained([str(pocket.folder(name))], progress=False) as member:
            llm = ChatGaC(ensemble=member)
            figures[name] = sum(is_right(llm, one) for one in asked) / count
    with Ensemble.pocket() as ensemble:
        llm = ChatGaC(ensemble=ensemble)
        figures["together"] = sum(is_right(llm, one) for one in asked) / count
    return figures


def main() -> None:
    """Print the shares, as JSON or as lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--questions", type=int, default=100)
    options = parser.parse_args()
    figures = measured(options.questions)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for name, share in figures.items():
        print(f"{name:10} {share:6.1%}")


if __name__ == "__main__":
    main()
