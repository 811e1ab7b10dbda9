"""Everything that LangChain takes for a schema or a tool, as JSON schema.

LangChain's own conversion fails on recursive schemas and keeps only an object's properties, so it
is used only for what neither is a dict nor has a method that gives a JSON schema.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel
from pydantic.v1 import BaseModel as BaseModelV1

from gac_core.chat.tools import is_cache_mark, is_tool, read_tool
from gac_integrations.langchain.errors import GaCInvalidRequestError, translated_errors
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
    elif isinstance(wanted, Mapping):
        with translated_errors():
            schema = schema_in(wanted) or {}
    else:
        try:
            schema = convert_to_json_schema(wanted)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise GaCInvalidRequestError(f"{wanted!r:.80} is no schema: {error}") from error
    return schema


def openai_tools(tools: Iterable[ToolLike], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Tools as OpenAI's API describes them, but for marks for a cache that stand between them.

    Raises:
        GaCInvalidRequestError: one of them can not be called here.

    """
    return [openai_tool(tool, strict=strict) for tool in tools if not is_cache_mark(tool)]


def openai_tool(tool: ToolLike, *, strict: bool | None = None) -> dict[str, Any]:
    """A tool as OpenAI's API describes one.

    Raises:
        GaCInvalidRequestError: it is none that can be called here.

    """
    if isinstance(tool, Mapping):
        if not _is_schema(tool):
            return _of_function(tool, strict)
        tool = {"title": "answer", **tool}
    try:
        converted: dict[str, Any] = convert_to_openai_tool(tool, strict=strict)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise GaCInvalidRequestError(f"{tool!r:.80} is no tool: {error}") from error
    if "function" not in converted:
        return _of_function(converted, strict)
    described = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    if isinstance(described, Mapping) or (
        isinstance(described, type) and issubclass(described, (BaseModel, BaseModelV1))
    ):
        converted["function"]["parameters"] = dict(json_schema(described))
    return converted


def _is_schema(tool: Mapping[str, Any]) -> bool:
    """Whether a dict is a JSON schema, which is taken for a tool of its title."""
    if is_tool(tool) or "name" in tool:
        return False
    return bool(tool.keys() & {"title", "properties"}) or tool.get("type") == "object"


def _of_function(tool: Mapping[str, Any], strict: bool | None) -> dict[str, Any]:
    with translated_errors():
        function = read_tool(tool)
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def response_format(wanted: Any) -> Mapping[str, Any] | None:
    """A `response_format` as plain data, which makes it a part of LangChain's cache key."""
    if wanted is None or (isinstance(wanted, Mapping) and "type" in wanted):
        return wanted
    schema = json_schema(wanted)
    name = schema.get("title", "answer")
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
