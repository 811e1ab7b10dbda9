"""From a model object's fields and the options of a call to `SamplingParams`."""

from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gac_core import ConfigError, SamplingParams

# Repeated in each class of fields, since the frameworks' base classes have other settings.
CONFIG: Final = ConfigDict(
    extra="forbid", populate_by_name=True, arbitrary_types_allowed=True, protected_namespaces=()
)

SAMPLING: Final = (
    *("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
    *("stop", "logprobs", "top_logprobs", "reasoning", "max_thought_tokens"),
)
_ALIASES: Final = ("max_new_tokens", "stop_sequences")  # other names for options of a call
_FIELDS: Final = {  # of `SamplingParams`, where the option has another name
    "max_tokens": "max_new_tokens",
    "stop_sequences": "stop",
    "reasoning": "thinking",
}


class CallDefaults(BaseModel):
    """The options that hold for a call unless it gives its own.

    Those of sampling that are None are as the ensemble has them: greedy, if it says nothing else.
    """

    model_config = CONFIG

    temperature: float | None = None
    max_tokens: int | None = Field(None, alias="max_new_tokens")
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | None = Field(None, alias="stop_sequences")
    logprobs: bool = False
    top_logprobs: int | None = None
    reasoning: bool | None = None
    max_thought_tokens: int | None = None
    parallel_tool_calls: bool = True
    timeout: float | None = Field(None, gt=0)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _are_in_range(self) -> Self:
        sampling_params(self, {})
        return self


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have a value; frameworks pass None for those that a call does not give."""
    return {name: value for name, value in options.items() if value is not None}


def check_options(options: Mapping[str, Any], *others: str) -> None:
    """Refuse options that a call does not take.

    Args:
        options: of the call.
        others: names that it takes besides those of `SAMPLING` and the timeout.

    Raises:
        ConfigError: an option is unknown.

    """
    known = (*SAMPLING, *_ALIASES, "timeout", *others)
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(f"unknown options {unknown}; a call takes {', '.join(sorted(known))}")


def sampling_params(defaults: CallDefaults, options: Mapping[str, Any]) -> SamplingParams:
    """The `SamplingParams` of a call.

    The default stop strings are ignored when a grammar decides where the answer ends. Stop strings
    of a call that asks for such an answer are an error.

    Args:
        defaults: the options that hold unless the call gives its own.
        options: of the call, and its "grammar".

    Raises:
        ConfigError: a value is out of range.

    """
    values = {_FIELDS.get(name, name): getattr(defaults, name) for name in SAMPLING}
    for name in (*SAMPLING, *_ALIASES):
        if name in options:
            values[_FIELDS.get(name, name)] = options[name]
    values["thinking"] = _thinking(values["thinking"])
    grammar = values["grammar"] = options.get("grammar")
    is_free = grammar is None or grammar.begins_free
    if not is_free and not options.keys() & {"stop", "stop_sequences"}:
        values["stop"] = None
    if not values["logprobs"] and options.get("top_logprobs") is None:
        values["top_logprobs"] = None  # the default counts only in calls that ask for logprobs
    return SamplingParams.of({k: v for k, v in values.items() if v is not None})


def _thinking(reasoning: object) -> str | None:
    """What `SamplingParams` has for what `reasoning` says; frameworks know other values of it."""
    if reasoning is None:
        return None
    if not isinstance(reasoning, bool):
        raise ConfigError(
            f"reasoning must be True, False or None, not {reasoning!r}; how much a model thinks is "
            "for max_thought_tokens, or its template (chat_template_kwargs)"
        )
    return "on" if reasoning else "off"
