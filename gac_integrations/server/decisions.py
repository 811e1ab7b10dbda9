"""Decisions: typed questions about an input, answered with probabilities and without a text.

The form is that of OpenAI's Decisions API, which other servers have, too; each answer says besides
how probable every member holds what can be answered.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from gac_core import Choice
from gac_core.chat.prompt import check_messages
from gac_core.decisions import CONTENT_FREE
from gac_integrations.server.answering import Computed
from gac_integrations.server.errors import ApiError
from gac_integrations.server.metrics import Record
from gac_integrations.server.schemas import Asked
from gac_integrations.server.service import Service
from gac_integrations.shared.deadline import Deadline
from gac_integrations.shared.deciding import Decision, adecided, question_chat

_NO_LIMIT: Final = Deadline(None)  # the response has one


class _Question(BaseModel):
    name: str | None = None
    instructions: str


class Predicate(_Question):
    """Whether a condition is true."""

    type: Literal["predicate"]

    @property
    def labels(self) -> list[str]:
        """The texts that answer it."""
        return ["yes", "no"]

    @property
    def meanings(self) -> list[str | None]:
        """What each of them means."""
        return [None, None]

    def answer(self, probs: Sequence[float]) -> dict[str, Any]:
        """The answer with these probabilities."""
        return {"type": self.type, "name": self.name, "probability": probs[0]}


class Option(BaseModel):
    """One of the choices of a question."""

    value: bool | str
    description: str | None = None


class ChoiceQuestion(_Question):
    """Which of several values is right."""

    type: Literal["choice"]
    choices: Annotated[list[Option], Field(min_length=2, max_length=255)]

    @property
    def labels(self) -> list[str]:
        """The texts that answer it."""
        return [
            option.value if isinstance(option.value, str) else str(option.value).lower()
            for option in self.choices
        ]

    @property
    def meanings(self) -> list[str | None]:
        """What each of them means."""
        return [option.description for option in self.choices]

    def answer(self, probs: Sequence[float]) -> dict[str, Any]:
        """The answer with these probabilities."""
        values = [option.value for option in self.choices]
        return {
            "type": self.type,
            "name": self.name,
            "choice": values[probs.index(max(probs))],
            "confidence": max(probs),
            "probabilities": [
                {"value": value, "probability": prob}
                for value, prob in zip(values, probs, strict=True)
            ],
        }


class Level(BaseModel):
    """A level of a scale."""

    label: str
    description: str | None = None


class Score(_Question):
    """Where on a scale something stands; the score is the expected index of the level."""

    type: Literal["score"]
    levels: Annotated[list[Level], Field(min_length=2, max_length=255)]

    @property
    def labels(self) -> list[str]:
        """The texts that answer it."""
        return [level.label for level in self.levels]

    @property
    def meanings(self) -> list[str | None]:
        """What each of them means."""
        return [level.description for level in self.levels]

    def answer(self, probs: Sequence[float]) -> dict[str, Any]:
        """The answer with these probabilities."""
        return {
            "type": self.type,
            "name": self.name,
            "score": sum(index * prob for index, prob in enumerate(probs)),
            "confidence": max(probs),
            "probabilities": [
                {"value": index, "label": label, "probability": prob}
                for index, (label, prob) in enumerate(zip(self.labels, probs, strict=True))
            ],
        }


Question = Annotated[Predicate | ChoiceQuestion | Score, Field(discriminator="type")]


class DecisionBody(Asked):
    """The body of a request for decisions; prior, length and temperature are those of `choose`."""

    input: str | list[dict[str, Any]]
    questions: Annotated[list[Question], Field(min_length=1)]
    prior: bool | None = None
    length: Literal["sum", "bytes"] | None = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def state(self) -> str:
        """The input as text.

        Raises:
            ApiError: a message is not a user's.
            PromptError: a message can not be read.

        """
        if isinstance(self.input, str):
            return self.input
        messages = check_messages([{k: v for k, v in m.items() if k != "type"} for m in self.input])
        if any(message["role"] != "user" for message in messages):
            raise ApiError(400, "input takes messages of the role user only", param="input")
        return "\n\n".join(message["content"] for message in messages)

    def decision(self, question: Predicate | ChoiceQuestion | Score) -> Decision:
        """What is to be decided for a question."""

        def chat(state: str) -> list[dict[str, str]]:
            labels, meanings = question.labels, question.meanings
            return question_chat(state, question.instructions, labels, meanings)

        prior = [chat(text) for text in CONTENT_FREE] if self.prior else False
        return Decision(chat(self.state), question.labels, prior)


class Decided(Computed):
    """The answers to questions, computed together.

    Args:
        service: whose ensemble decides.
        body: of the request.

    """

    prompt_field = "input"

    def __init__(self, service: Service, body: DecisionBody) -> None:
        super().__init__(service)
        self._body = body

    async def _compute(self, scope: Scope, receive: Receive, send: Send) -> None:
        record: Record = scope["gac.record"]
        body, service = self._body, self._service
        body.check()
        if (count := len(body.questions)) > (most := service.options.max_answers):
            raise ApiError(
                400, f"there are {count} questions, and may be {most}", param="questions"
            )
        decisions = await asyncio.to_thread(lambda: [body.decision(q) for q in body.questions])
        options = {"length": body.length, "temperature": body.temperature}
        given = {name: value for name, value in options.items() if value is not None}
        async with service.turns.take(count):
            found = await adecided(service.ensemble, decisions, given, _NO_LIMIT)
        for choice in found:
            record.add(choice.usage, has_prompt=True)
        answers = [
            {**question.answer(choice.probs), "gac": {"members": _members(choice)}}
            for question, choice in zip(body.questions, found, strict=True)
        ]
        read = sum(choice.usage.prompt_tokens for choice in found)
        usage = {"input_tokens": read, "output_tokens": 0, "total_tokens": read}
        result = {"model": service.options.name, "answers": answers, "usage": usage}
        await JSONResponse(result)(scope, receive, send)


def _members(choice: Choice) -> list[dict[str, Any]]:
    """How probable each member holds each label, in their order."""
    return [
        {"name": own.name, "weight": own.weight, "probabilities": list(own.probs)}
        for own in choice.members
    ]
