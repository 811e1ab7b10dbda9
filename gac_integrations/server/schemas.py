"""What clients send: OpenAI's fields that are kept, and those that may be left unheeded.

An option that could change an answer and is not kept is refused by name, and never ignored.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from gac_integrations.server.errors import ApiError

# Changes no answer.
HARMLESS: Final = (
    *("user", "metadata", "store", "service_tier", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention"),
)
# Options that are not kept, with the values at which they do nothing.
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "functions": ([],),
    "tools": ([],),
    "parallel_tool_calls": (True, False),  # beside no tools
}

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    include_usage: bool | None = None


class Asked(BaseModel):
    """What all requests have in common."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None

    def check(self) -> None:
        """Refuse options that would be ignored.

        Raises:
            ApiError: there are some; it names them.

        """
        refused = [
            name
            for name, value in (self.model_extra or {}).items()
            if value is not None
            and name not in HARMLESS
            and not any(value == neutral for neutral in _NEUTRAL.get(name, ()))
        ]
        if refused:
            names = ", ".join(f"{name!r}" for name in sorted(refused))
            raise ApiError(
                400,
                f"this server does not know the options {names} and would have to ignore them; "
                "leave them out",
                param=min(refused),
                code="unsupported_parameter",
            )


class Body(Asked):
    """What chats and completions have in common."""

    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seed: int | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = (
        None
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def shows_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatBody(Body):
    """The body of a chat."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=100)] | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    max_thought_tokens: Annotated[int, Field(ge=0)] | None = None


class CompletionBody(Body):
    """The body of a completion."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=100)] | bool | None = None
