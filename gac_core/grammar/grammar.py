"""What an answer must look like: JSON of a schema, a regular expression, choices, tool calls.

A `Grammar` is a language of texts, checked when it is made; `constraint.py` holds answers to it.
The engine is llguidance, and what it can not enforce, it refuses.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gac_core.errors import GrammarError
from gac_core.grammar.call_tags import CALL_CLOSES, CALL_OPENS
from gac_core.grammar.json_schema import (
    arguments_schema,
    enforced_schema,
    json_rule,
    parsed_schema,
    patterns_in,
)
from gac_core.grammar.matcher import check_language, literal, regex_literal

GrammarKind = Literal["json_schema", "regex", "choice", "tools"]


@dataclass(frozen=True)
class Grammar:
    """A language that an answer is held to; make one with a class method.

    Attributes:
        kind: what it was made of.
        lark: the language, as llguidance reads it.
        patterns: regular expressions of texts within it.
        begins_free: whether an answer may be free text, which a stop string may end.

    Example:
        >>> Grammar.choice(["yes", "no"]).kind
        'choice'

    """

    kind: GrammarKind
    lark: str
    patterns: tuple[str, ...] = ()
    begins_free: bool = False

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str | bool) -> "Grammar":
        """JSON that fits a JSON schema (draft 2020-12); `{}` is any JSON.

        Raises:
            GrammarError: the schema is none, holds what can not be enforced, or nothing fits it.

        Example:
            >>> Grammar.json_schema({"type": "string", "pattern": "^[A-Z]{3}$"}).patterns
            ('^[A-Z]{3}$',)

        """
        enforced = enforced_schema(parsed_schema(schema))
        lark = f"start: {json_rule(enforced)}\n"
        check_language(lark, "the JSON schema")
        return cls("json_schema", lark, tuple(patterns_in(enforced)))

    @classmethod
    def regex(cls, pattern: str) -> "Grammar":
        r"""Text that a regular expression matches as a whole, read as Python's `re` reads it.

        `.` is any character but \n; `\w`, `\d` and `\s` are as Unicode defines them, so `\w` has
        the marks that some scripts write vowels with. `\p{L}` and its like may be used, too.

        Raises:
            GrammarError: it is none, uses look-around or back-references, or nothing fits it.

        Example:
            >>> Grammar.regex("[0-9]{4}-[0-9]{2}").kind
            'regex'

        """
        if not isinstance(pattern, str):
            raise GrammarError(f"a regular expression must be a string, not {pattern!r}")
        lark = f"start: X\nX: {regex_literal(pattern)}\n"
        check_language(lark, "the regular expression")
        return cls("regex", lark, (pattern,))

    @classmethod
    def choice(cls, choices: Sequence[str]) -> "Grammar":
        """One of these texts.

        Raises:
            GrammarError: there is none, or one is empty or not a string.

        Example:
            >>> Grammar.choice([])
            Traceback (most recent call last):
            gac_core.errors.GrammarError: choices must be a list of one text or more, not []

        """
        if isinstance(choices, str) or not choices:
            raise GrammarError(f"choices must be a list of one text or more, not {choices!r}")
        if wrong := [c for c in choices if not isinstance(c, str) or not c]:
            raise GrammarError(f"each choice must be a text of one character or more: {wrong[0]!r}")
        # One terminal, of which there may be many alternatives; of rules there may not.
        lark = f"start: X\nX: {' | '.join(literal(c) for c in dict.fromkeys(choices))}\n"
        check_language(lark, "the list of choices")
        return cls("choice", lark)

    @classmethod
    def tools(
        cls,
        functions: Sequence[Mapping[str, Any]],
        *,
        required: bool = False,
        parallel: bool = True,
        otherwise: Mapping[str, Any] | None = None,
    ) -> "Grammar":
        """Calls of tools in the form of `chat.tools`, each with arguments that fit its schema.

        Args:
            functions: JSON-schema functions (name, description, parameters) that may be called.
            required: whether there must be a call, and nothing before it. Without, there may be
                free text, and calls after it.
            parallel: whether there may be several calls.
            otherwise: a JSON schema of what an answer without a call is, instead of free text.

        Raises:
            GrammarError: there is no function, two have one name, or a schema can not be enforced.

        Example:
            >>> Grammar.tools([{"name": "now"}]).begins_free
            True
            >>> Grammar.tools([{"name": "now"}], required=True).begins_free
            False

        """
        names = [str(function["name"]) for function in functions]
        if not names:
            raise GrammarError("tools need one function or more")
        if len(set(names)) < len(names):
            raise GrammarError(f"two tools have the same name: {names}")
        schemas: list[dict[str, Any]] = []
        calls: list[str] = []
        start = "calls" if required else "calls | TEXT"
        if otherwise is not None and not required:
            schemas.append(enforced_schema(parsed_schema(otherwise)))
            start = f"calls | {_checked_rule(schemas[-1], 'the JSON schema')}"
        for number, (name, function) in enumerate(zip(names, functions, strict=True)):
            schemas.append(enforced_schema(arguments_schema(function)))
            rule = _checked_rule(schemas[-1], f"the schema of the tool {name!r}")
            opens = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
            calls.append(f'call{number}: {literal(opens)} {rule} "}}"')
        is_bare = required or otherwise is not None  # nothing comes before a call
        lines = [
            f"start: {start}",
            f"calls: {'OPENS' if is_bare else 'opens'} one"
            + (" (BREAK OPENS one)*" if parallel else ""),
            f"one: ({' | '.join(f'call{n}' for n in range(len(names)))}) {literal(CALL_CLOSES)}",
            f"OPENS: {literal(CALL_OPENS)}",
            f"opens[lazy]: TEXT {literal(CALL_OPENS)}",
            r"BREAK: /\n?/",
            "TEXT: /(.|\\n)*/",
            *calls,
        ]
        lark = "\n".join(lines) + "\n"
        check_language(lark, "the list of tools")
        patterns = [pattern for schema in schemas for pattern in patterns_in(schema)]
        return cls("tools", lark, tuple(patterns), begins_free=not is_bare)


def _checked_rule(schema: Mapping[str, Any], what: str) -> str:
    """`json_rule` of a schema that can be enforced."""
    rule = json_rule(schema)
    check_language(f"start: {rule}\n", what)
    return rule
