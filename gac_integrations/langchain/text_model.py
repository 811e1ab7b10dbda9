"""The plain model: it continues a text as it is, without chat templates."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from gac_core import Output, SamplingParams, Step
from gac_integrations.langchain.errors import translated_errors
from gac_integrations.langchain.fields import LangChainFields
from gac_integrations.shared.deadline import Deadline
from gac_integrations.shared.options import CONFIG, check_options, given, sampling_params
from gac_integrations.shared.serialize import token_dict, usage_dict


class GaC(LangChainFields, BaseLLM):
    r"""An ensemble as a model of plain text, for completion chains.

    The options are those of `ChatGaC`, but for tools and structure.

    Example:
        >>> from gac_integrations.langchain import GaC
        >>> llm = GaC(model="pocket", max_tokens=20, stop="User:")
        >>> llm.invoke("User: What is 17 + 25?\n\nAssistant:")
        ' 17 + 25 = 42'

    """

    model_config = CONFIG

    @property
    def _llm_type(self) -> str:
        return "gac-text"

    def _params(
        self, stop: list[str] | None, options: dict[str, Any]
    ) -> tuple[SamplingParams, Deadline]:
        check_options(options, "stream")
        options = given({**options, "stop": stop} if stop is not None else options)
        return sampling_params(self, options), Deadline(options.get("timeout", self.timeout))

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        callbacks = run_manager if len(prompts) == 1 else None  # a manager is that of one prompt
        with translated_errors():
            params, deadline = self._params(stop, kwargs)
            ensemble = self._ensemble
            streams = [ensemble.stream(prompt, params) for prompt in prompts]
            try:
                outputs = []
                for stream in streams:
                    steps = []
                    with deadline.limiting(stream):
                        for step in stream:
                            steps.append(step)
                            if callbacks is not None:
                                callbacks.on_llm_new_token(step.text, chunk=_chunk(step))
                    outputs.append(Output.of(steps))
            finally:
                for stream in streams:
                    stream.close()
        return self._result(outputs)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        callbacks = run_manager if len(prompts) == 1 else None
        with translated_errors():
            params, deadline = self._params(stop, kwargs)
            ensemble = self._ensemble
            await ensemble.aload()
            streams = [ensemble.astream(prompt, params) for prompt in prompts]
            try:
                outputs = []
                for stream in streams:
                    steps = []
                    with deadline.limiting(stream):
                        async for step in stream:
                            steps.append(step)
                            if callbacks is not None:
                                await callbacks.on_llm_new_token(step.text, chunk=_chunk(step))
                    outputs.append(Output.of(steps))
            finally:
                for stream in streams:
                    await stream.aclose()
        return self._result(outputs)

    def _result(self, outputs: list[Output]) -> LLMResult:
        generations = [
            [Generation(text=output.text, generation_info=_info(*output.steps))]
            for output in outputs
        ]
        usage = usage_dict(*(output.usage for output in outputs))
        return LLMResult(
            generations=generations,
            llm_output={"token_usage": usage, "model_name": self.model_name},
        )

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with translated_errors():
            params, deadline = self._params(stop, kwargs)
            with self._ensemble.stream(prompt, params) as stream, deadline.limiting(stream):
                for step in stream:
                    chunk = _chunk(step)
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        with translated_errors():
            params, deadline = self._params(stop, kwargs)
            await self._ensemble.aload()
            async with self._ensemble.astream(prompt, params) as stream:
                with deadline.limiting(stream):
                    async for step in stream:
                        chunk = _chunk(step)
                        if run_manager is not None:
                            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                        yield chunk


def _chunk(step: Step) -> GenerationChunk:
    return GenerationChunk(text=step.text, generation_info=_info(step))


def _info(*steps: Step) -> dict[str, Any] | None:
    """The logprobs, if the call asks for them, and how the answer ended; None if neither."""
    info: dict[str, Any] = {}
    if tokens := [token_dict(step) for step in steps if step.top]:
        info["logprobs"] = {"content": tokens}
    if (outcome := steps[-1].outcome) is not None:
        info |= {"finish_reason": outcome.finish_reason, "seed": outcome.seed}
    return info or None
