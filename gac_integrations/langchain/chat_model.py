"""The chat model."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Any, Final, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import BaseChatModel, generate_from_stream
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableMap,
    RunnablePassthrough,
)
from langchain_core.runnables.config import get_config_list
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from gac_core import PromptError
from gac_core.chat.prompt import Prompt
from gac_core.chat.response_format import AnswerForm
from gac_integrations.langchain.chunks import ChunkMaker
from gac_integrations.langchain.errors import GaCInvalidRequestError, translated_errors
from gac_integrations.langchain.fields import LangChainFields
from gac_integrations.langchain.messages import plain_messages
from gac_integrations.langchain.schemas import (
    Schema,
    ToolLike,
    json_schema,
    openai_tool,
    openai_tools,
    response_format,
)
from gac_integrations.shared.call import ChatRequest, tool_choice_name
from gac_integrations.shared.model_cache import context_size_of
from gac_integrations.shared.options import CONFIG

_ONLY_TEXT: Final = (  # what a profile says no to
    *("image_inputs", "image_url_inputs", "pdf_inputs", "audio_inputs", "video_inputs"),
    *("image_tool_message", "pdf_tool_message", "attachment"),
    *("image_outputs", "audio_outputs", "video_outputs"),
)
IGNORED = ("stream", "ls_structured_output_format")  # which LangChain passes beside options


class ChatGaC(LangChainFields, BaseChatModel):
    """Several language models that write each answer together, token by token.

    Setup:
        ``pip install gac[langchain]``. Nothing else for the embedded pocket ensemble; for models
        of your own, ``gac config org/model-a org/model-b -o ensemble.yaml`` writes a file.

    Key init args (completion params):
        model: "pocket" (default), or the path of a YAML file.
        temperature, top_p, top_k, min_p, repetition_penalty, seed: how an answer is drawn.
        max_tokens: steps at most.
        stop: the answer ends before the first of these; matched on text, across tokens.
        reasoning: whether members that can think before they answer do; None is as their chat
            templates have it. max_thought_tokens: steps of a thought at most.
        logprobs, top_logprobs: keep the most probable tokens, and each member's view.

    Key init args (client params):
        config: an `EnsembleConfig` instead of `model`.
        ensemble: an `Ensemble` that is loaded already.
        timeout: seconds an answer may take.
        max_retries, api_key: accepted since all chat models have them; nothing here needs them.

    Instantiate:
        >>> from gac_integrations.langchain import ChatGaC
        >>> llm = ChatGaC(model="pocket", max_tokens=100)

    Invoke:
        >>> llm.invoke("What is 17 + 25?").content
        '17 + 25 = 42'

    Stream:
        >>> [chunk.text for chunk in llm.stream("What is 1 + 2?")]
        ['1', ' +', ' ', '2', ' =', ' ', '3', '']

    Async:
        >>> import asyncio
        >>> sums = asyncio.run(llm.abatch(["What is 1 + 2?", "What is 3 + 4?"]))
        >>> [message.content for message in sums]  # made in shared forward passes
        ['1 + 2 = 3', '3 + 4 = 7']

        Native: cancelling a task stops the computing within a step.

    Tool calling:
        >>> def get_weather(city: str) -> str:
        ...     "Get the weather in a city."
        ...     return "sunny"
        >>> [call] = llm.bind_tools([get_weather]).invoke("What is the weather in Rome?").tool_calls
        >>> call["name"], call["args"]
        ('get_weather', {'city': 'Rome'})

        `tool_choice` may be "auto", "any", "none" or a tool's name. Calls fit the tools' schemas,
        even where the members would prefer something else. All members see tools in one form (as
        text in the system message) and write calls in one form, or they could not agree on tokens.

    Structured output:
        >>> from pydantic import BaseModel
        >>> class Person(BaseModel):
        ...     name: str
        ...     age: int
        >>> llm.with_structured_output(Person).invoke("Mila is 42 years old.")
        Person(name='Mila', age=42)

        Held to the schema by a grammar, with each of the methods "json_schema" (default),
        "function_calling" and "json_mode".

    JSON mode:
        >>> import json
        >>> json_mode = llm.bind(response_format={"type": "json_object"})
        >>> isinstance(json.loads(json_mode.invoke("Mila is 42 years old.").content), dict)
        True

    Token usage:
        >>> llm.invoke("What is 17 + 25?").usage_metadata
        {'input_tokens': 18, 'output_tokens': 10, 'total_tokens': 28}

        counts the primary's tokens, ``response_metadata["members"]`` each member's own.

    Logprobs:
        >>> sure = llm.bind(logprobs=True).invoke("What is 17 + 25?")
        >>> token = sure.response_metadata["logprobs"]["content"][0]
        >>> token["token"], token["logprob"] > -0.1
        ('1', True)
        >>> [(member["name"], member["top"]) for member in token["members"]]
        [('ada', '1'), ('bo', '1'), ('cy', '1')]

        A member's view is its most probable token ("top", "top_prob"), and the probability that it
        gave the chosen one ("prob").

    Response metadata:
        finish_reason ("stop", "length", "tool_calls"), normalized_finish_reason ("stop", "length",
        "tool_call"), model_name, model_provider, members, steps, fused_steps, seed.

    """

    model_config = CONFIG

    streaming: bool | None = None

    # ------------------------------------------------ answering

    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, options: Mapping[str, Any]
    ) -> ChatRequest:
        given = {**options, "stop": stop} if stop is not None else options
        if tools := options.get("tools"):
            given = {**given, "tools": openai_tools(tools)}
        return ChatRequest.of(self, plain_messages(messages), given, json_schema, *IGNORED)

    def _maker(self, request: ChatRequest) -> ChunkMaker:
        in_blocks = self.output_version == "v1"
        return ChunkMaker(self._shown_name, request.form, in_blocks=in_blocks)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        is_watched = run_manager is not None and bool(run_manager.handlers)
        if is_watched or self.timeout is not None or "timeout" in kwargs:
            return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))
        with translated_errors():
            request = self._request(messages, stop, kwargs)
            output = self._ensemble.generate(request.prompt, request.params)
            maker = self._maker(request)
            chunks = [chunk for step in output.steps for chunk in maker.push(step)]
        return generate_from_stream(iter(chunks))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with translated_errors():
            request = self._request(messages, stop, kwargs)
            maker = self._maker(request)
            for step in self._steps(request):
                for chunk in maker.push(step):
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chunks = [c async for c in self._astream(messages, stop, run_manager, **kwargs)]
        return generate_from_stream(iter(chunks))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with translated_errors():
            request = self._request(messages, stop, kwargs)
            maker = self._maker(request)
            async with aclosing(self._asteps(request)) as steps:
                async for step in steps:
                    for chunk in maker.push(step):
                        if run_manager is not None:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer many at once; as many as the engine takes, unless `max_concurrency` is less."""
        configs = get_config_list(config, len(inputs))
        for each in configs:
            if each.get("max_concurrency") is None:
                each["max_concurrency"] = self._config.max_batch
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    # ------------------------------------------------ tools and structure

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the answer call tools.

        Args:
            tools: LangChain tools, functions, pydantic classes, or OpenAI tools.
            tool_choice: "auto" (default), "any", "none", or a tool's name.
            strict: close the tools' schemas; they are always enforced.
            kwargs: other call options, such as `parallel_tool_calls`.

        """
        shown = openai_tools(tools, strict=strict)
        if "response_format" in kwargs:
            kwargs["response_format"] = response_format(kwargs["response_format"])
        names = [tool["function"]["name"] for tool in shown]
        with translated_errors():
            choice = tool_choice_name(tool_choice, names)
            AnswerForm(tuple(tool["function"] for tool in shown), choice)
        return self.bind(tools=shown, tool_choice=choice, **kwargs)

    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Answers as objects of a schema.

        Args:
            schema: a pydantic class, a TypedDict, a JSON schema, or an OpenAI tool.
            method: "json_schema": the answer is JSON of the schema, which the members are shown;
                "function_calling": the schema is a tool that is called; "json_mode": as
                "json_schema", but you describe the JSON in the prompt (any object, without
                a schema).
            include_raw: give the message and the parsing error as well.
            strict: changes nothing; an answer always fits the schema and has no other properties.
            kwargs: other call options.

        """
        if schema is None and method != "json_mode":
            raise GaCInvalidRequestError(f"method {method} needs a schema")
        is_pydantic = isinstance(schema, type) and is_basemodel_subclass(schema)
        ls_format = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        parser: Runnable[Any, Any]
        if method == "function_calling":
            assert schema is not None
            if json_schema(schema).get("type", "object") != "object":
                raise GaCInvalidRequestError("function_calling needs an object; use json_schema")
            tool = openai_tool(schema, strict=strict)
            name = tool["function"]["name"]
            model = self.bind_tools(
                [tool],
                tool_choice=name,
                strict=strict,
                parallel_tool_calls=False,
                ls_structured_output_format=ls_format,
                **kwargs,
            )
            parser = (
                PydanticToolsParser(tools=[schema], first_tool_only=True)
                if is_pydantic
                else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
            )
        elif method in ("json_schema", "json_mode"):
            wanted = response_format(schema)
            if method == "json_mode":
                described = None if schema is None else json_schema(schema)
                wanted = {"type": "json_object", "schema": described}
            model = self.bind(
                response_format=wanted, ls_structured_output_format=ls_format, **kwargs
            )
            parser = (
                PydanticOutputParser(pydantic_object=schema) if is_pydantic else JsonOutputParser()
            )
        else:
            raise GaCInvalidRequestError(
                f"method {method!r} is none of json_schema, function_calling, json_mode"
            )
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(
            parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
        )
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks(
            [failed], exception_key="parsing_error"
        )

    # ------------------------------------------------ what LangChain asks of it

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[ToolLike] | None = None,
    ) -> int:
        """The tokens of the prompt that the primary reads for these messages, exactly.

        None for no messages. With `custom_get_token_ids`, what LangChain counts with it.
        """
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        with translated_errors():
            request = self._request(messages, None, {"tools": tools} if tools else {})
            return self._length(request.prompt)

    def _length(self, prompt: Prompt) -> int:
        """The primary's tokens of a prompt, or of a part of one.

        Who trims a chat counts parts that templates refuse: none of it, or an answer without its
        question, to which an empty one is added.
        """
        if not prompt:
            return 0
        primary = self._ensemble.primary
        try:
            return len(self._ensemble.prompt_ids(prompt)[primary])
        except PromptError:
            assert not isinstance(prompt, str)
            others = [i for i, message in enumerate(prompt) if message["role"] != "system"]
            if not others or prompt[others[0]]["role"] != "assistant":
                raise
            asked = {"role": "user", "content": ""}
            whole = [*prompt[: others[0]], asked, *prompt[others[0] :]]
            return len(self._ensemble.prompt_ids(whole)[primary])

    @property
    def _llm_type(self) -> str:
        return "gac"

    def _resolve_model_profile(self) -> ModelProfile | None:
        profile: ModelProfile = ModelProfile(
            name=self._shown_name,
            open_weights=True,
            text_inputs=True,
            **dict.fromkeys(_ONLY_TEXT, False),  # type: ignore[typeddict-item]
            text_outputs=True,
            tool_calling=True,
            tool_choice=True,
            tool_call_streaming=True,
            structured_output=True,
            temperature=True,
        )
        loaded = self.ensemble
        if loaded is not None:  # else it is not known before the chat templates are read
            profile["reasoning_output"] = loaded.can_think
        limit = context_size_of(self._config) if loaded is None else loaded.context_size
        if limit is not None:  # prompt and answer share it
            profile["max_input_tokens"] = limit
            profile["max_output_tokens"] = limit
        return profile
