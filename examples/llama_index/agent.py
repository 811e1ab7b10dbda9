"""A function agent, and a workflow that tells what it does while it does it."""

import asyncio

from llama_index.core.agent.workflow import (
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ToolCall,
    ToolCallResult,
)

from gac_integrations.llama_index import GaCLLM


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return {"Rome": "sunny", "Oslo": "rainy"}.get(city, "unknown")


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


async def main() -> None:
    """Ask the agent, then the workflow."""
    llm = GaCLLM(model="pocket")
    agent = FunctionAgent(tools=[get_weather, multiply], llm=llm)
    print(await agent.run("What is 37 times 12?"))

    workflow = AgentWorkflow.from_tools_or_functions([get_weather, multiply], llm=llm)
    handler = workflow.run(user_msg="What is the weather in Rome?")
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            print(f"result: {event.tool_output.content}")
        elif isinstance(event, ToolCall):
            print(f"call: {event.tool_name} {event.tool_kwargs}")
        elif isinstance(event, AgentStream):
            print(event.delta, end="", flush=True)
    await handler
    print()


asyncio.run(main())
