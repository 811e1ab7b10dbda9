"""The decision model: typed questions about a state, answered with probabilities."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from langchain_core.decisions import (
    Answer,
    BaseDecisionModel,
    Choice as ChoiceQuestion,
    ChoiceAnswer,
    ClassifierResponse,
    Noul,
    NoulAnswer,
    Question,
    Score,
    ScoreAnswer,
    State,
)
from langchain_core.messages import BaseMessage, UsageMetadata
from pydantic import Field, JsonValue, SecretStr

from gac_core import Choice, ConfigError
from gac_core.chat.prompt import check_messages
from gac_core.decisions import CONTENT_FREE
from gac_integrations.langchain.errors import translated_errors
from gac_integrations.langchain.messages import plain_messages
from gac_integrations.shared.deadline import Deadline
from gac_integrations.shared.deciding import Decision, adecided, decided, question_chat
from gac_integrations.shared.fields import NamedEnsemble
from gac_integrations.shared.options import CONFIG

YES, NO = "yes", "no"


class GaCDecisions(NamedEnsemble, BaseDecisionModel):
    """Several language models that answer typed questions together, with probabilities.

    Each member scores every possible answer as it would write it itself; the ensemble's fusion rule
    and weights pool these distributions (`Ensemble.choose`). All questions of a request are
    computed at the same time. `confidence` is the probability of the most probable answer.

    Args:
        model: "pocket" (default), or the path of a YAML file.
        config: an `EnsembleConfig` instead of `model`.
        ensemble: an `Ensemble` that is loaded already.
        temperature: by which each member's log-probabilities are divided: above 1 where they turn
            out too sure; or one for each of some members, by their names.
        prior: whether what members like to answer whatever the state is (asked with "N/A", "[MASK]"
            and nothing in its place) is taken off (https://arxiv.org/abs/2102.09690).
        length: "sum" or "bytes"; see `Ensemble.choose`.
        timeout: seconds a request may take.
        max_retries, api_key: accepted since all models have them; nothing here needs them.

    A `Box` asks for a place in an image, which is an error: these models read text. So is any other
    media in state or questions.

    Example:
        >>> from langchain_core.decisions import Choice
        >>> from gac_integrations.langchain import GaCDecisions
        >>> labels = {"Mila lives in Oslo.": None, "Mila lives in Rome.": None}
        >>> where = Choice(instructions="Where does Mila live?", criteria=labels)
        >>> request = {"state": "Tom lives in Oslo. Mila lives in Rome.", "questions": {"q": where}}
        >>> GaCDecisions(model="pocket", prior=True).invoke(request).choices["q"].choice
        'Mila lives in Rome.'

    """

    model_config = CONFIG

    _naming_field: ClassVar[str] = "model"  # which is LangChain's own

    model: str = "pocket"
    temperature: float | dict[str, float] = 1.0
    prior: bool = False
    length: Literal["sum", "bytes"] = "sum"
    timeout: float | None = Field(None, gt=0)
    max_retries: int = 0
    api_key: SecretStr | None = None

    def __getstate__(self) -> dict[Any, Any]:
        with translated_errors():
            return super().__getstate__()

    @property
    def _provider(self) -> str:
        return "gac"

    def _classify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        with translated_errors():
            decisions = self._decisions(state, questions)
            asked = list(decisions.values())
            found = decided(self._ensemble, asked, self._options, Deadline(self.timeout))
            return self._response(questions, dict(zip(decisions, found, strict=True)))

    async def _aclassify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        with translated_errors():
            decisions = self._decisions(state, questions)
            asked = list(decisions.values())
            found = await adecided(self._ensemble, asked, self._options, Deadline(self.timeout))
            return self._response(questions, dict(zip(decisions, found, strict=True)))

    @property
    def _options(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "length": self.length}

    def _decisions(self, state: State, questions: Mapping[str, Question]) -> dict[str, Decision]:
        """What has to be decided; nothing for a choice of one label.

        Raises:
            ConfigError: there are no questions, or one can not be answered.

        """
        if not questions:
            raise ConfigError("there are no questions; ask one or more")
        shown = _text_of(state, "the state")
        decisions = {}
        for name, question in questions.items():
            labels = labels_of(question)
            prior = [_prompt(text, question, name) for text in CONTENT_FREE]
            if len(labels) > 1:
                prompt = _prompt(shown, question, name)
                decisions[name] = Decision(prompt, labels, prior if self.prior else False)
        return decisions

    def _response(
        self, questions: Mapping[str, Question], found: Mapping[str, Choice]
    ) -> ClassifierResponse:
        read = sum(choice.usage.prompt_tokens for choice in found.values())
        return ClassifierResponse(
            model=self._shown_name,
            answers={
                name: _answer(question, found[name].probs if name in found else (1.0,))
                for name, question in questions.items()
            },
            usage=UsageMetadata(input_tokens=read, output_tokens=0, total_tokens=read),
        )


# ------------------------------------------------ questions and answers


def labels_of(question: Question) -> list[str]:
    """The texts that answer a question.

    Raises:
        ConfigError: it asks for something else than one of some texts.

    """
    match question:
        case Noul():
            return [YES, NO]
        case ChoiceQuestion():
            return list(question.criteria)
        case Score():
            return [str(level) for level in range(len(question.criteria))]
    raise ConfigError(
        f"a question of type {question.type} can not be answered; these models read text only"
    )


def _answer(question: Question, probs: Sequence[float]) -> Answer:
    sure = min(max(probs), 1.0)
    match question:
        case Noul():
            return NoulAnswer(type="noul", noul=min(probs[0], 1.0))
        case ChoiceQuestion():
            labels = list(question.criteria)
            return ChoiceAnswer(
                type="choice",
                choice=labels[probs.index(max(probs))],
                probabilities=dict(zip(labels, probs, strict=True)),
                confidence=sure,
            )
    assert isinstance(question, Score)
    return ScoreAnswer(
        type="score",
        score=sum(level * prob for level, prob in enumerate(probs)),
        legend=dict(enumerate(question.criteria)),
        probabilities=dict(enumerate(probs)),
        confidence=sure,
    )


# ------------------------------------------------ as text


def _prompt(state: str, question: Question, name: str) -> list[dict[str, str]]:
    """A chat that asks a question about a state, and says before what each answer means."""
    where = f"question {name!r}"
    meanings = [None if m is None else _text_of(m, where) for m in _meanings(question)]
    return question_chat(
        state, _text_of(question.instructions, where), labels_of(question), meanings
    )


def _meanings(question: Question) -> list[JsonValue]:
    match question:
        case Noul():
            criteria = question.criteria
            return [None, None] if criteria is None else [criteria.true, criteria.false]
        case ChoiceQuestion():
            return list(question.criteria.values())
    assert isinstance(question, Score)
    return list(question.criteria)


def _text_of(value: Any, where: str) -> str:
    """A state or a part of a question as text: messages as a transcript, other things as JSON.

    Raises:
        PromptError: a message has other content than text.
        ConfigError: it holds media, or something that JSON can not.

    """
    if isinstance(value, str):
        return value
    messages = [value] if isinstance(value, BaseMessage) else value
    if (
        isinstance(messages, Sequence)
        and messages
        and all(isinstance(message, BaseMessage) for message in messages)
    ):
        plain = check_messages(plain_messages(messages))
        return "\n".join(f"{message['role']}: {message['content']}" for message in plain)
    try:
        return json.dumps(_plain(value, where), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} can not be written as JSON: {error}") from error


def _plain(value: Any, where: str) -> Any:
    """A value with dicts in the place of messages."""
    if isinstance(value, BaseMessage):
        messages = check_messages(plain_messages([value]))
        return messages[0] if len(messages) == 1 else messages
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind in ("image", "audio", "video", "file", "image_url") and len(value) > 1:
            raise ConfigError(f"{where} holds media of type {kind}; these models read text only")
        return {key: _plain(part, where) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(part, where) for part in value]
    return value
