"""An agent with two tools: it asks for a call, reads the result, and answers."""

from langchain.agents import create_agent
from langchain_core.tools import tool

from gac_integrations.langchain import ChatGaC


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return {"Rome": "sunny", "Oslo": "rainy"}.get(city, "unknown")


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


agent = create_agent(ChatGaC(model="pocket"), [get_weather, multiply])
for question in ("What is the weather in Rome?", "What is 37 times 12?"):
    done = agent.invoke({"messages": [{"role": "user", "content": question}]})
    for message in done["messages"]:
        calls = getattr(message, "tool_calls", None)
        print(f"{message.type:6}", calls[0]["args"] if calls else message.text)
