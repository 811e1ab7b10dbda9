"""An assistant with a memory and two tools: its tokens and thoughts as they come, then an object.

Run it on models of your own with the path of a YAML file: `assistant.py ensemble.yaml`.
"""

import sys

from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from gac_integrations.langchain import ChatGaC


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return {"Rome": "sunny", "Oslo": "rainy"}.get(city, "unknown")


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    weather: str


model = ChatGaC(model=sys.argv[1] if len(sys.argv) > 1 else "pocket", max_tokens=200)
assistant = create_agent(model, [get_weather, multiply], checkpointer=InMemorySaver())
talk: RunnableConfig = {"configurable": {"thread_id": "1"}}
for question in ("What is the weather in Rome?", "What is 37 times 12?"):
    print(f"\nyou: {question}")
    for chunk, _ in assistant.stream(
        {"messages": [HumanMessage(question)]}, talk, stream_mode="messages"
    ):
        if isinstance(chunk, AIMessageChunk):
            print(chunk.additional_kwargs.get("reasoning_content", ""), end="")
            for call in chunk.tool_call_chunks:
                print(call["name"] or "", call["args"] or "", end="", sep="")
            print(chunk.text, end="", flush=True)
        elif isinstance(chunk, ToolMessage):
            print(f"\n{chunk.name} says: {chunk.text}")
    print()
print(f"\n{len(assistant.get_state(talk).values['messages'])} messages remembered")

# The whole talk, as an object of a schema.
remembered = assistant.get_state(talk).values["messages"]
print(model.with_structured_output(Weather).invoke(remembered[:4]))
