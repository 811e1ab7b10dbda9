"""An agent that looks things up in documents: a workflow over the tool of a query engine.

Run it on models of your own with the path of a YAML file: `assistant.py ensemble.yaml`.
"""

import asyncio
import sys

from llama_index.core import SummaryIndex
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, ToolCall, ToolCallResult
from llama_index.core.schema import Document
from llama_index.core.tools import QueryEngineTool

from gac_integrations.llama_index import GaCLLM

DOCUMENTS = [Document(text="Mila lives in Rome. Tom lives in Oslo. The pet of Mila is a parrot.")]


async def main() -> None:
    """Ask the agent, and watch what it does."""
    llm = GaCLLM(model=sys.argv[1] if len(sys.argv) > 1 else "pocket", max_tokens=200)
    engine = SummaryIndex.from_documents(DOCUMENTS).as_query_engine(llm=llm)
    look_up = QueryEngineTool.from_defaults(
        engine, name="look_up", description="Answer a question about people from documents."
    )
    workflow = AgentWorkflow.from_tools_or_functions([look_up], llm=llm)
    handler = workflow.run(user_msg="Use look_up: Where does Mila live?")
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            print(f"\n{event.tool_name} says: {event.tool_output.content}")
        elif isinstance(event, ToolCall):
            print(f"\ncall: {event.tool_name} {event.tool_kwargs}")
        elif isinstance(event, AgentStream):
            print(event.thinking_delta or event.delta, end="", flush=True)
    print(f"\n\n{await handler}")


asyncio.run(main())
