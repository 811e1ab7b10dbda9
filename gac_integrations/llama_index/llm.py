"""The LLM of LlamaIndex."""

import pickle
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Self, TypeVar

from llama_index.core.base.llms.generic_utils import messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    ToolCallBlock,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection, default_completion_to_prompt
from llama_index.core.llms.utils import parse_partial_json
from llama_index.core.tools.types import BaseTool
from pydantic import Field, model_validator

from gac_core import ConfigError, SamplingParams
from gac_core.chat.prompt import check_messages
from gac_integrations.llama_index.errors import GaCRequestError, translated_errors
from gac_integrations.llama_index.messages import plain_messages
from gac_integrations.llama_index.responses import ResponseMaker
from gac_integrations.shared.call import ChatRequest
from gac_integrations.shared.fields import EnsembleFields
from gac_integrations.shared.model_cache import unique_name
from gac_integrations.shared.options import CONFIG

_UNLIMITED = 2**17  # tokens of a member without a limit; LlamaIndex needs some number
IGNORED = ("extra_headers", "extra_body", "extra_query")  # of clients that reach for a server
Response = TypeVar("Response")


class GaCLLM(EnsembleFields, CustomLLM, FunctionCallingLLM):
    r"""Several language models that write each answer together, token by token.

    Args:
        model: "pocket" (default), or the path of a YAML file (``gac config`` writes one).
        config: an `EnsembleConfig` instead of `model`.
        ensemble: an `Ensemble` that is loaded already.
        temperature, top_p, top_k, min_p, repetition_penalty, seed: how an answer is drawn.
        max_tokens: steps at most.
        stop: the answer ends before the first of these; matched on text, across tokens.
        reasoning: whether members that can think before they answer do; None is as their chat
            templates have it.
        max_thought_tokens: steps of a thought at most.
        logprobs, top_logprobs: keep the most probable tokens in `logprobs`.
        timeout: seconds an answer may take.
        system_prompt: comes first in every chat and completion.
        context_window: to make prompts for fewer tokens than the smallest member could read.
        is_chat_model: whether `complete` asks the prompt as a user would (default), or continues
            it as a text.
        is_function_calling_model: whether agents and programs may call tools.

    The options of a call beat these: ``llm.complete("...", max_tokens=20, stop=["."])``. An option
    that is unknown is an error. Errors are those of `gac_core`, but `GaCRequestError` for a wrong
    request and `GaCContextOverflowError` for one that is too long.

    ``response.raw["tokens"]`` has every member's view of each token, ``response.raw["usage"]`` the
    primary's count, at the end of an answer.

    Example:
        >>> from gac_integrations.llama_index import GaCLLM
        >>> llm = GaCLLM(model="pocket", max_tokens=100)
        >>> answer = llm.complete("Mila lives in Rome.\n\nWhere does Mila live?")
        >>> answer.text, answer.raw["usage"]["completion_tokens"]
        ('Mila lives in Rome.', 10)
        >>> [piece.delta for piece in llm.stream_complete("What is 1 + 2?")]
        ['1', ' +', ' ', '2', ' =', ' ', '3', '']

    With an index over documents: ``index.as_query_engine(llm=llm, streaming=True)``.

    """

    model_config = CONFIG

    context_window: int | None = Field(None, gt=0)
    is_chat_model: bool = True
    is_function_calling_model: bool = True

    @classmethod
    def class_name(cls) -> str:
        """The class name in serialised objects."""
        return "GaCLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The limits for which LlamaIndex cuts prompts: the smallest context of the members."""
        window = self._token_budget
        if self.context_window is not None:
            window = min(window, self.context_window)
        num_output = self.max_tokens or SamplingParams().max_new_tokens
        return LLMMetadata(
            context_window=window,
            num_output=min(num_output, window - 1),
            is_chat_model=self.is_chat_model,
            is_function_calling_model=self.is_function_calling_model,
            model_name=self._shown_name,
        )

    @property
    def _token_budget(self) -> int:
        """The tokens of a prompt and its answer, chat template left out; loads the members."""
        resolved = self._resolve()
        if resolved.budget is None:
            ensemble = self._ensemble
            empty = [{"role": role, "content": "a"} for role in ("system", "user")]
            overhead = map(len, ensemble.prompt_ids(empty))
            sizes = [member.scorer.context_size or _UNLIMITED for member in ensemble.members]
            resolved.budget = min(s - o for s, o in zip(sizes, overhead, strict=True))
        return resolved.budget

    def token_ids(self, text: str) -> list[int]:
        """The ids of a text for the member that needs most of them.

        For ``llama_index.core.set_global_tokenizer(llm.token_ids)``.
        """
        return max((m.tokenizer.encode_prompt(text) for m in self._ensemble.members), key=len)

    def __getstate__(self) -> dict[Any, Any]:
        """The configuration; callbacks belong to a process."""
        state = super().__getstate__()
        dropped = ("callback_manager", "rate_limiter")
        kept = {k: v for k, v in state["__dict__"].items() if k not in dropped}
        for name in ("messages_to_prompt", "completion_to_prompt", "output_parser"):
            try:
                pickle.dumps(kept.get(name))
            except Exception as error:
                raise ConfigError(
                    f"{name} can not be pickled: {error}; use a function of a module"
                ) from error
        return {**state, "__dict__": kept}

    @model_validator(mode="before")
    @classmethod
    def _only_fields(cls, values: Any) -> Any:
        """Values without the entries that `to_dict` adds to the fields."""
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if k not in ("class_name", "identity")}

    @model_validator(mode="after")
    def _uses_the_query_wrapper(self) -> Self:
        if self.query_wrapper_prompt is not None and self.is_chat_model:
            raise ValueError(
                "query_wrapper_prompt is for texts that are continued; set is_chat_model=False, "
                "or put it into system_prompt"
            )
        return self

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The configuration, and an identity, by which objects of other ensembles are not equal."""
        ensemble = None if self.ensemble is None else unique_name(self.ensemble)
        identity = ensemble or self._config.model_dump_json()
        return {**super().to_dict(**kwargs), "identity": identity}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """The object of a configuration.

        Raises:
            ConfigError: it had been made with an ensemble, which no dict can hold.

        """
        made: Self = super().from_dict(data, **kwargs)
        if data.get("identity", "{").startswith("{"):
            return made
        raise ConfigError("an ensemble that was handed over is in no dict; use model= or config=")

    # ------------------------------------------------ from a call to a request

    def _chat_request(
        self, messages: Sequence[ChatMessage], options: Mapping[str, Any]
    ) -> ChatRequest:
        """The one place where chats become prompts."""
        if tools := options.get("tools"):
            options = {**options, "tools": [_openai_tool(tool) for tool in tools]}
        with translated_errors():
            plain = plain_messages(messages)
            if self.system_prompt:
                system = [self.system_prompt]
                if plain and plain[0]["role"] == "system":
                    system.append(plain.pop(0)["content"])
                plain.insert(0, {"role": "system", "content": "\n\n".join(system)})
            request = ChatRequest.of(self, plain, options, _json_schema, *IGNORED)
            if self.messages_to_prompt is messages_to_prompt:
                return request
            assert self.messages_to_prompt is not None
            assert not isinstance(request.prompt, str)
            shown = [ChatMessage(**message) for message in check_messages(request.prompt)]
            return replace(request, prompt=self.messages_to_prompt(shown))

    def _completion_request(
        self, prompt: str, formatted: bool, options: Mapping[str, Any]
    ) -> ChatRequest:
        if options.get("tools"):
            raise GaCRequestError("a completion calls no tools; use chat, or chat_with_tools")
        is_plain = self.completion_to_prompt is default_completion_to_prompt
        if self.is_chat_model and is_plain and not formatted:
            return self._chat_request([ChatMessage(content=prompt)], options)
        if not formatted:
            assert self.completion_to_prompt is not None
            prompt = self._extend_prompt(self.completion_to_prompt(prompt))
        with translated_errors():
            request = ChatRequest.of(self, [], options, _json_schema, *IGNORED)
        assert not isinstance(request.prompt, str)
        shown = [str(message["content"]) for message in request.prompt]  # the schema, if any
        return replace(request, prompt="\n\n".join([prompt, *shown]))

    def _extend_messages(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        return messages  # the system prompt is added for all, in `_chat_request`

    # ------------------------------------------------ answering

    def _whole(self, request: ChatRequest) -> ResponseMaker:
        maker = ResponseMaker(self._shown_name, request)
        with translated_errors():
            for step in self._steps(request):
                maker.push(step)
        return maker

    async def _awhole(self, request: ChatRequest) -> ResponseMaker:
        maker = ResponseMaker(self._shown_name, request)
        with translated_errors():
            async with aclosing(self._asteps(request)) as steps:
                async for step in steps:
                    maker.push(step)
        return maker

    def _pieces(
        self, request: ChatRequest, make: Callable[[ResponseMaker, str], Response]
    ) -> Generator[Response, None, None]:
        maker = ResponseMaker(self._shown_name, request)
        with translated_errors():
            for step in self._steps(request):
                if (delta := maker.push(step)) is not None:
                    yield make(maker, delta)

    async def _apieces(
        self, request: ChatRequest, make: Callable[[ResponseMaker, str], Response]
    ) -> AsyncGenerator[Response, None]:
        maker = ResponseMaker(self._shown_name, request)
        with translated_errors():
            async with aclosing(self._asteps(request)) as steps:
                async for step in steps:
                    if (delta := maker.push(step)) is not None:
                        yield make(maker, delta)

    # These eight are decorated and call only undecorated helpers, or LlamaIndex would fire two
    # events for one call.

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat."""
        return self._whole(self._chat_request(messages, kwargs)).chat()

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a chat, piece by piece; closing the generator stops the computing."""
        return self._pieces(self._chat_request(messages, kwargs), ResponseMaker.chat)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat beside others; cancelling the task stops the computing."""
        return (await self._awhole(self._chat_request(messages, kwargs))).chat()

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer a chat beside others, piece by piece."""
        return self._apieces(self._chat_request(messages, kwargs), ResponseMaker.chat)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, or continue a text if it is `formatted` or this is no chat model."""
        return self._whole(self._completion_request(prompt, formatted, kwargs)).completion()

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """As `complete`, piece by piece."""
        request = self._completion_request(prompt, formatted, kwargs)
        return self._pieces(request, ResponseMaker.completion)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """As `complete`, beside others."""
        request = self._completion_request(prompt, formatted, kwargs)
        return (await self._awhole(request)).completion()

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """As `stream_complete`, beside others."""
        request = self._completion_request(prompt, formatted, kwargs)
        return self._apieces(request, ResponseMaker.completion)

    # ------------------------------------------------ tools

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,  # noqa: ARG002
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or ())
        if user_msg is not None:
            messages.append(
                ChatMessage(content=user_msg) if isinstance(user_msg, str) else user_msg
            )
        # LlamaIndex's programs pass a `tool_choice` of None where there has to be a call, and leave
        # `tool_required` out where they stream.
        is_program = "tool_choice" in kwargs and kwargs["tool_choice"] is None
        if not kwargs.get("tool_choice"):
            kwargs["tool_choice"] = "required" if tool_required or is_program else "auto"
        return {
            "messages": messages,
            "tools": [_openai_tool(tool) for tool in tools],
            "parallel_tool_calls": allow_parallel_tool_calls and self.parallel_tool_calls,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self,
        response: ChatResponse,
        error_on_no_tool_call: bool = True,
        **kwargs: Any,  # noqa: ARG002
    ) -> list[ToolSelection]:
        """The calls of an answer, or of a part of one, as far as they are written.

        Raises:
            ValueError: there is none, and `error_on_no_tool_call`.

        """
        blocks = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
        if not blocks and error_on_no_tool_call:
            raise ValueError(
                f"the answer calls no tool: {response.message.content!r}; pass tool_required=True"
            )
        return [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=_as_far_as_written(block.tool_kwargs),
            )
            for block in blocks
        ]


def _as_far_as_written(arguments: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(arguments, dict):
        return arguments
    try:
        return dict(parse_partial_json(arguments))
    except (ValueError, TypeError):
        return {}


def _openai_tool(tool: Any) -> Any:
    return tool.metadata.to_openai_tool(True) if isinstance(tool, BaseTool) else tool


def _json_schema(wanted: Any) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = wanted.model_json_schema()
    return schema
