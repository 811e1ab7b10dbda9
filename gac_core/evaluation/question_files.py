"""Questions of one's own: a file with a JSON object a line, each with one way to judge it."""

import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from gac_core.chat.content import check_text
from gac_core.chat.prompt import Prompt, check_messages
from gac_core.errors import ConfigError, GacError, one_line
from gac_core.evaluation.judging import Match, block_after, code_in, compiles, says, words
from gac_core.evaluation.questions import TaskSet
from gac_core.evaluation.text_files import read_utf8
from gac_core.method_specs import Checked

_WAYS: Final = ("answers", "pattern", "code")
_ASKED: Final = ("question", "messages", "prompt")
_MOST_TOKENS: Final = {"answers": 64, "pattern": 64, "code": 256}


class QuestionLine(Checked):
    """What a line may say: what is asked, one way to judge the answer, and where it belongs."""

    id: str | int | None = Field(None, description="its name, unique in all files")
    set: str | None = Field(None, min_length=1, description="its set; default: the file's name")
    question: str | None = Field(None, description="asked as a chat of one message")
    messages: list[dict[str, Any]] | None = Field(None, description="a chat")
    prompt: str | None = Field(None, description="a raw text to go on with")
    answers: list[str] | None = Field(None, min_length=1, description="accepted answers")
    match: Match = Field("first", description="where an accepted answer must stand")
    pattern: str | None = Field(None, description="a regular expression to be found in the answer")
    code: Literal["python"] | None = Field(None, description="the answer must compile")
    prefix: str | None = Field(None, description="code before that of a chat's answer")
    max_new_tokens: int | None = Field(None, ge=1, description="steps of the answer at most")

    @field_validator("answers", mode="before")
    @classmethod
    def _one_answer(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("answers")
    @classmethod
    def _has_words(cls, value: list[str] | None) -> list[str] | None:
        for answer in value or ():
            if not words(answer):
                raise ValueError(
                    f"answers: {answer!r} has no letter and no digit to compare; use pattern"
                )
        return value

    @field_validator("pattern")
    @classmethod
    def _is_regex(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"pattern {value!r} is no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _is_one_question(self) -> Self:
        for kind, names in (("what is asked", _ASKED), ("how it is judged", _WAYS)):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) != 1:
                found = " and ".join(given) or "none of them"
                raise ValueError(f"{kind} is one of {', '.join(names)}; it has {found}")
        for name, needed in (("match", "answers"), ("prefix", "code")):
            if name in self.model_fields_set and getattr(self, needed) is None:
                raise ValueError(f"{name} means nothing without {needed}; leave it out")
        if self.prefix is not None and self.prompt is not None:
            raise ValueError("a prompt is its own prefix; leave prefix out")
        if not self.asked:
            raise ValueError("what is asked is empty")
        if isinstance(self.asked, str):
            check_text(self.asked, "prompt")
        else:
            check_messages(self.asked)
        return self

    @property
    def asked(self) -> Prompt:
        """The prompt: a chat, or a raw text to go on with."""
        if self.question is not None:
            return [{"role": "user", "content": self.question}] if self.question.strip() else ""
        return (self.messages or "") if self.prompt is None else self.prompt

    @property
    def way(self) -> str:
        """How it is judged: "answers", "pattern" or "code"."""
        return next(name for name in _WAYS if getattr(self, name) is not None)


@dataclass(frozen=True)
class Question:
    """A question of a file.

    Attributes:
        line: what the file says.
        place: file and line, for messages.

    """

    line: QuestionLine
    place: str

    @property
    def prompt(self) -> Prompt:
        """What is asked: a chat, or a raw text to go on with."""
        return self.line.asked

    @property
    def answer(self) -> str:
        """The first accepted answer; empty if it is not judged by accepted ones."""
        return (self.line.answers or [""])[0]

    @property
    def max_new_tokens(self) -> int:
        """The most steps an answer may take."""
        return self.line.max_new_tokens or _MOST_TOKENS[self.line.way]

    def is_correct(self, text: str, *, is_cut: bool = False) -> bool:
        """Whether an answer counts as right; see `gac_core.evaluation.judging`."""
        line = self.line
        if line.answers is not None:
            return says(text, line.answers, line.match)
        if line.pattern is not None:
            return re.search(line.pattern, text) is not None
        code = self._code(text)
        if not code.strip():
            return False
        is_cut = is_cut and text.endswith(code)  # the limit cut what is judged
        return compiles((line.prompt or line.prefix or "") + code, is_cut=is_cut)

    def vote_key(self, text: str) -> Hashable:
        """What is equal for two texts that give the same answer."""
        if self.line.code is not None:
            return self._code(text).strip()
        if self.line.pattern is not None:
            found = re.search(self.line.pattern, text)
            return None if found is None else found[0]
        return words(text)

    def _code(self, text: str) -> str:
        prompt = self.line.prompt
        return code_in(text) if prompt is None else block_after(prompt, text)


def read_questions(paths: Sequence[str | Path]) -> TaskSet:
    """The questions in files, by set: a `TaskSet` whose draws are the first of each set.

    Args:
        paths: JSONL files; a line is what `QuestionLine` says, blank lines are left out.

    Raises:
        ConfigError: a file can not be read or has no question, or a line is wrong; the message
            names the file and the line.

    """
    by_set: dict[str, list[Question]] = {}
    places: dict[str | int, str] = {}  # by id
    for path in map(Path, paths):
        questions = [
            Question(_line(text, place), place) for place, text in _lines(path, read_utf8(path))
        ]
        if not questions:
            raise ConfigError(f"{path} has no question; write one JSON object a line")
        for question in questions:
            name = question.line.id
            if name is not None and name in places:
                raise ConfigError(
                    f"{question.place}: the id {name!r} is that of {places[name]} already; ids "
                    "must differ, or be left out"
                )
            if name is not None:
                places[name] = question.place
            by_set.setdefault(question.line.set or path.stem, []).append(question)
    return TaskSet({name: _first_of(questions) for name, questions in by_set.items()})


def _first_of(questions: Sequence[Question]) -> Any:
    return lambda count, seed: questions[:count]  # noqa: ARG005


def _lines(path: Path, text: str) -> list[tuple[str, str]]:
    """The lines that are not blank, with where they stand; only a line feed ends one."""
    lines = enumerate(text.split("\n"), 1)
    return [(f"{path}, line {number}", line) for number, line in lines if line.strip()]


def _line(text: str, place: str) -> QuestionLine:
    try:
        value = json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{place}: no JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: it must be a JSON object, not {text.strip()[:40]!r}")
    try:
        return QuestionLine.of(value)
    except GacError as error:
        raise ConfigError(f"{place}: {one_line(error)}") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return value
