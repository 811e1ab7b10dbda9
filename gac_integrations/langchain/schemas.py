"""Everything that LangChain takes for a schema or a tool, as JSON schema.

LangChain's own conversion fails on recursive schemas and keeps only an object's properties, so it
is used only for what neither is a JSON schema nor has a method that gives one.
"""

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel
from pydantic.v1 import BaseModel as BaseModelV1

from gac_integrations.langchain.errors import GaCInvalidRequestError
from gac_integrations.shared.call import schema_in

Schema = dict[str, Any] | type
ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool


def json_schema(wanted: Any) -> Mapping[str, Any]:
    """The JSON schema of a class, a TypedDict, a function, a tool, or of what is one already.

    Raises:
        GaCInvalidRequestError: it is none of them.

    """
    schema: Mapping[str, Any]
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        schema = wanted.model_json_schema()
    elif isinstance(wanted, type) and issubclass(wanted, BaseModelV1):
        schema = wanted.schema()
    elif (described := schema_in(wanted)) is not None:
        schema = described
    else:
        try:
            schema = convert_to_json_schema(wanted)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise GaCInvalidRequestError(f"{wanted!r:.80} is no schema: {error}") from error
    return schema


def openai_tool(tool: ToolLike, *, strict: bool | None = None) -> dict[str, Any]:
    """A tool as OpenAI's API describes one.

    Raises:
        GaCInvalidRequestError: it is none that can be called here.

    """
    if isinstance(tool, Mapping) and tool.get("type") == "object" and "title" not in tool:
        tool = {"title": "answer", **tool}
    try:
        converted: dict[str, Any] = convert_to_openai_tool(tool, strict=strict)
        function = converted["function"]
        _ = function["name"]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise GaCInvalidRequestError(f"{tool!r:.80} is no tool: {error}") from error
    described = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    if isinstance(described, type) and issubclass(described, (BaseModel, BaseModelV1)):
        function["parameters"] = dict(json_schema(described))
    elif isinstance(described, Mapping) and "function" not in described:
        function["parameters"] = dict(described.get("parameters") or json_schema(described))
    return converted


def response_format(wanted: Any) -> Mapping[str, Any] | None:
    """A `response_format` as plain data, which makes it a part of LangChain's cache key."""
    if wanted is None or (isinstance(wanted, Mapping) and "type" in wanted):
        return wanted
    schema = json_schema(wanted)
    name = schema.get("title", "answer")
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
