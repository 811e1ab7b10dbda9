"""What a chat request asks of its answer's form: tools and which of them, or JSON of a schema.

Adapters of every kind read their own options into an `AnswerForm`; what members are shown, and the
grammar that holds the answer to it, follow from there. `deltas.py` reads the answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gac_core.chat.messages import role_of
from gac_core.chat.tools import tools_text
from gac_core.errors import ConfigError
from gac_core.grammar.grammar import Grammar

Function = Mapping[str, Any]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class AnswerForm:
    """Tools that may be called, and the form of an answer that calls none.

    Attributes:
        functions: JSON-schema functions: name, description, parameters.
        choice: "auto": text or calls; "required": one call or more; "none": no calls; or the name
            of the one function to call.
        parallel: whether there may be several calls.
        schema: of the JSON that the answer is, if it calls no tool.
        shows_schema: whether the members are shown the schema.

    Raises:
        ConfigError: the choice is no function's name, or asks for calls without functions.

    """

    functions: tuple[Function, ...] = ()
    choice: str = "auto"
    parallel: bool = True
    schema: Mapping[str, Any] | None = None
    shows_schema: bool = True

    def __post_init__(self) -> None:
        names = [function.get("name") for function in self.functions]
        if self.choice not in ("auto", "none", "required", *names):
            raise ConfigError(
                f"tool_choice {self.choice!r} is none of auto, none, required and the tools {names}"
            )
        if self.choice == "required" and not names:
            raise ConfigError("tool_choice required needs tools")

    @property
    def callable_functions(self) -> tuple[Function, ...]:
        """The functions that the answer may call."""
        if self.choice in ("auto", "required"):
            return self.functions
        return tuple(f for f in self.functions if f["name"] == self.choice)

    @property
    def _must_call(self) -> bool:
        return bool(self.callable_functions) and self.choice != "auto"

    def messages(self, messages: Messages) -> list[Mapping[str, Any]]:
        """The messages with tools and schema at the end of a system message that comes first."""
        shown = []
        if self.callable_functions:
            shown.append(tools_text(self.functions))
        if self.schema is not None and self.shows_schema and not self._must_call:
            schema = json.dumps(self.schema, ensure_ascii=False)
            shown.append(f"Answer with JSON that fits this schema:\n{schema}")
        if not shown:
            return list(messages)
        if not messages or role_of(messages[0]) != "system":
            return [{"role": "system", "content": "\n\n".join(shown)}, *messages]
        content = messages[0].get("content")
        parts = [content] if isinstance(content, str) else list(content or ())
        if parts not in ([], [""]):
            shown.insert(0, "")  # a blank line between
        return [{**messages[0], "content": [*parts, "\n\n".join(shown)]}, *messages[1:]]

    def grammar(self) -> Grammar | None:
        """The language of such answers; None if any text will do.

        Raises:
            GrammarError: a schema can not be enforced.

        """
        if functions := self.callable_functions:
            return Grammar.tools(
                functions,
                required=self._must_call,
                parallel=self.parallel and self.choice in ("auto", "required"),
                otherwise=self.schema,
            )
        return None if self.schema is None else Grammar.json_schema(self.schema)
