"""From what a client sends to prompts and how their answers are drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gac_core import ConfigError, SamplingParams
from gac_core.chat.prompt import Prompt
from gac_core.chat.response_format import AnswerForm
from gac_core.sampling_params import MAX_SEED
from gac_integrations.server.errors import ApiError
from gac_integrations.server.options import ServerOptions
from gac_integrations.server.schemas import Body, ChatBody, CompletionBody
from gac_integrations.shared.call import ChatRequest
from gac_integrations.shared.options import CallDefaults

_DEFAULTS: Final = CallDefaults()
_FORMATS: Final = ("text", "json_object", "json_schema")
_DEFAULT_TOKENS: Final = SamplingParams().max_new_tokens
_SAMPLING: Final = ("temperature", "top_p", "min_p", "repetition_penalty", "stop", "max_tokens")


@dataclass(frozen=True)
class Wanted:
    """The answers that a request asks for.

    Attributes:
        prompts: of each answer.
        params: of each answer; those of one prompt stand together and differ in their seeds.
        form: of all of them.
        per_prompt: the number of answers to each prompt.

    """

    prompts: list[Prompt]
    params: list[SamplingParams]
    form: AnswerForm
    per_prompt: int

    def __len__(self) -> int:
        return len(self.prompts)


def chat_wanted(body: ChatBody, options: ServerOptions) -> Wanted:
    """The answers that a chat asks for.

    Raises:
        ApiError: too much is asked for, or an option can not be followed.
        ConfigError: an option is wrong.

    """
    body.check()
    kind = (body.response_format or {}).get("type", "text")
    if kind not in _FORMATS:
        raise ApiError(
            400,
            f"response_format is of type {kind!r}; use one of {', '.join(_FORMATS)}",
            param="response_format",
        )
    most = body.max_completion_tokens or body.max_tokens
    given = {
        **_sampling(body, most, options),
        **_thinking(body),
        "max_thought_tokens": body.max_thought_tokens,
        "tools": body.tools,
        "tool_choice": body.tool_choice,
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": body.response_format,
    }
    if body.logprobs or body.top_logprobs:
        given |= {"logprobs": body.logprobs, "top_logprobs": body.top_logprobs or 0}
    request = ChatRequest.of(_DEFAULTS, body.messages, given, _no_class)
    return _repeated([request], body.n or 1, options)


def completion_wanted(body: CompletionBody, options: ServerOptions) -> Wanted:
    """The answers that a completion asks for: texts to go on with.

    Raises:
        ApiError: too much is asked for, or an option can not be followed.
        ConfigError: an option is wrong.

    """
    body.check()
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not prompts:
        raise ApiError(400, "prompt is an empty list; give at least one text", param="prompt")
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        raise ApiError(
            400,
            "prompt must be text: the members of an ensemble share no token ids",
            param="prompt",
        )
    given = _sampling(body, body.max_tokens, options)
    if body.logprobs not in (None, False):  # 0 asks for those of the chosen tokens
        given |= {"logprobs": True, "top_logprobs": int(body.logprobs)}
    request = ChatRequest.of(_DEFAULTS, [], given, _no_class)
    return _repeated([replace(request, prompt=text) for text in texts], body.n or 1, options)


def _sampling(body: Body, most: int | None, options: ServerOptions) -> dict[str, Any]:
    limit = options.max_tokens
    if limit is not None and most is not None and most > limit:
        raise ApiError(
            400, f"max_tokens is {most}, but this server allows {limit}", param="max_tokens"
        )
    given = {name: getattr(body, name) for name in _SAMPLING}
    if most is None and limit is not None and limit < _DEFAULT_TOKENS:
        most = limit  # else the default holds, which is lowered to what the context has left
    given["max_tokens"] = most
    given["top_k"] = 0 if body.top_k == -1 else body.top_k  # as vLLM says "all"
    given["seed"] = None if body.seed is None else body.seed & MAX_SEED  # may be negative
    return given


def _thinking(body: ChatBody) -> dict[str, Any]:
    """Whether to think, by the two names under which clients say so."""
    template = body.chat_template_kwargs or {}
    if unknown := sorted(template.keys() - {"enable_thinking"}):
        raise ApiError(
            400,
            f"chat_template_kwargs takes enable_thinking, not {unknown}; others belong to the "
            "members in the ensemble's configuration",
            param="chat_template_kwargs",
        )
    wishes: set[bool] = set()
    if body.reasoning_effort is not None:
        wishes.add(body.reasoning_effort != "none")
    if (enabled := template.get("enable_thinking")) is not None:
        wishes.add(bool(enabled))
    if len(wishes) > 1:
        raise ApiError(
            400,
            "reasoning_effort and enable_thinking contradict each other; leave one out",
            param="reasoning_effort",
        )
    return {"reasoning": wishes.pop()} if wishes else {}


def _repeated(requests: list[ChatRequest], n: int, options: ServerOptions) -> Wanted:
    count = len(requests) * n
    if count > options.max_answers:
        raise ApiError(
            400,
            f"the request asks for {count} answers, but this server writes {options.max_answers} "
            "at most; ask for fewer at a time",
            param="n",
        )
    return Wanted(
        [request.prompt for request in requests for _ in range(n)],
        [_reseeded(request.params, i) for request in requests for i in range(n)],
        requests[0].form,
        n,
    )


def _reseeded(params: SamplingParams, index: int) -> SamplingParams:
    """The params for another answer to the same prompt; without a seed all are drawn freely."""
    if params.seed is None or not index:
        return params
    return params.model_copy(update={"seed": (params.seed + index) & MAX_SEED})


def _no_class(wanted: Any) -> Mapping[str, Any]:
    raise ConfigError(f"{wanted!r:.80} is no schema")
