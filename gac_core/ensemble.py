"""`Ensemble`: load, generate, stream, batch, and the same for asyncio."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gac_core import pocket
from gac_core.chat.prompt import Prompt
from gac_core.config import EnsembleConfig, config_of
from gac_core.decisions import Deciding
from gac_core.decoding.run import Sink
from gac_core.engine.job import Job, OnError
from gac_core.engine.process import OneProcess
from gac_core.engine.streams import AsyncStream, Completion, Stream
from gac_core.errors import ConfigError, EngineClosedError, PromptError
from gac_core.member_config import MemberConfig
from gac_core.members.base import Member, Scorer
from gac_core.members.given import given_members, loaded_of
from gac_core.members.loading import Loaded, Loader
from gac_core.method_specs import MethodSpec
from gac_core.outputs import Output
from gac_core.pocket import folder as pocket_folder  # noqa: F401  (its name until 0.1)
from gac_core.runtime import Runtime
from gac_core.sampling_params import SamplingParams
from gac_core.tokens.union import UnionVocabulary


class Ensemble(Deciding):
    """Several language models that write one text together.

    Make one with `pocket`, `from_pretrained`, `from_config` or `from_models`; use it as a context
    manager or `close` it. It may be used from many threads and tasks at once: requests that run at
    the same time share the members' forward passes.

    Attributes:
        config: its members and options; members of weight 0 included.

    Example:
        >>> from gac_core import Ensemble
        >>> with Ensemble.pocket() as ensemble:
        ...     output = ensemble.generate([{"role": "user", "content": "What is 77 - 49?"}])
        >>> output.text
        '77 - 49 = 28'

    """

    def __init__(
        self,
        config: EnsembleConfig,
        load: Callable[[], Sequence[Loaded]],
        *,
        lazy: bool = False,
        spec: MethodSpec | None = None,
    ) -> None:
        self.config = config
        self._load = load
        self._spec = spec
        self._runtime: Runtime | None = None
        self._process = OneProcess()
        self._runtime_lock = threading.Lock()
        self._is_closed = False
        if not lazy:
            _ = self.runtime

    # ------------------------------------------------ constructors

    @classmethod
    def pocket(cls, *, lazy: bool = False, **options: Any) -> "Ensemble":
        """The embedded ensemble: three tiny chat models in this package, for the CPU, offline.

        Args:
            lazy: load when first used.
            options: of `EnsembleConfig`, and `weights`. Method co_llm needs no gate if the
                primary is the first member, since a gate for it is embedded, too.

        """
        config = config_of(pocket.members(), pocket.with_defaults(options))
        return cls(config, Loader(config.active().members, progress=False), lazy=lazy)

    @classmethod
    def from_pretrained(
        cls,
        models: Sequence[str],
        *,
        weights: Sequence[float] | None = None,
        device: str = "auto",
        device_map: str | None = None,
        max_memory: dict[int | str, int | str] | None = None,
        dtype: str = "auto",
        lazy: bool = False,
        progress: bool = True,
        **options: Any,
    ) -> "Ensemble":
        """Load models from folders, GGUF files or the hub.

        Args:
            models: folders, GGUF files or hub names.
            weights: one per model; all equal by default. A model of weight 0 is left out.
            device: where every model goes; "auto" spreads them over the GPUs.
            device_map: spread each model over several devices, by accelerate.
            max_memory: with `device_map`, the most each device may hold.
            dtype: of the weights; "auto" is the one in which they are stored.
            lazy: load when first used.
            progress: show progress bars.
            options: of `EnsembleConfig`: method, threshold, primary, fusion, history, max_batch.

        Raises:
            ConfigError: an option is unknown or out of range.
            LoadError: a model can not be loaded.
            VocabularyError: a tokenizer can not take part.

        """
        if (
            isinstance(models, str)
            or not models
            or not all(isinstance(m, (str, Path)) for m in models)
        ):
            raise ConfigError("models must be a list of paths or hub names, one or more")
        placed = {"device": device, "device_map": device_map, "max_memory": max_memory}
        members = [MemberConfig.of({"model": str(m), "dtype": dtype, **placed}) for m in models]
        config = config_of(members, {"weights": weights, **options})
        return cls(config, Loader(config.active().members, progress=progress), lazy=lazy)

    @classmethod
    def from_config(
        cls,
        config: EnsembleConfig | dict[str, Any] | str | Path,
        *,
        lazy: bool = False,
        progress: bool = True,
    ) -> "Ensemble":
        """Load the models that a configuration names.

        Args:
            config: an `EnsembleConfig`, its values as a dict, or the path of a YAML file of them.
            lazy: load when first used.
            progress: show progress bars.

        Raises:
            ConfigError: the file is missing or wrong.
            LoadError: a model can not be loaded.
            VocabularyError: a tokenizer can not take part.

        Example:
            >>> from gac_core import pocket
            >>> cascade = {"method": "cascade", "threshold": 0.9, "primary": 2}
            >>> with Ensemble.from_config({"members": pocket.members(), **cascade}) as ensemble:
            ...     output = ensemble.generate([{"role": "user", "content": "What is 77 - 49?"}])
            >>> output.text, output.usage.fused_steps  # the primary was sure of all units but one
            ('77 - 49 = 28', 1)

        """
        if not isinstance(config, (EnsembleConfig, dict, str, Path)):
            raise ConfigError(
                f"config must be an EnsembleConfig, its values or a path, not {config!r:.80}"
            )
        if isinstance(config, dict):
            config = EnsembleConfig.of(config)
        elif not isinstance(config, EnsembleConfig):
            config = EnsembleConfig.from_yaml(config)
        return cls(config, Loader(config.active().members, progress=progress), lazy=lazy)

    @classmethod
    def from_models(
        cls,
        models: Sequence[tuple[PreTrainedModel | Scorer, PreTrainedTokenizerBase]],
        *,
        names: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        **options: Any,
    ) -> "Ensemble":
        """An ensemble of models that are loaded already.

        Args:
            models: (model, tokenizer) pairs; models are put in evaluation mode. Any object with the
                `Scorer` protocol may stand in a model's place.
            names: one per model.
            weights: one per model; all equal by default.
            options: of `EnsembleConfig`.

        Raises:
            ConfigError: an option is unknown or out of range.
            VocabularyError: a tokenizer can not take part.

        """
        members = given_members(models, names)
        config = config_of(members, {"weights": weights, **options})
        return cls(config, partial(list, loaded_of(config, models)))

    # ------------------------------------------------ answering

    def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Any
    ) -> Output:
        """Write one answer.

        Args:
            prompt: a raw text to continue, or chat messages (dicts of role and content), which
                every member reads in its own chat template.
            params: how to draw; greedy by default.
            options: single fields of `SamplingParams`, which override those of `params`.

        Raises:
            ConfigError: an option is unknown or out of range.
            PromptError: the prompt is malformed, empty, or does not fit a member's context.
            MemberError: a member failed.
            EngineClosedError: the ensemble was closed.
            ForkedError: it was loaded in the process that this one was forked from.

        Example:
            >>> chat = [{"role": "user", "content": "What is 77 - 49?"}]
            >>> with Ensemble.pocket() as ensemble:
            ...     output = ensemble.generate(chat, max_new_tokens=30, stop=" =")
            >>> output.text, output.finish_reason, output.stop
            ('77 - 49', 'stop', ' =')

        """
        return self.batch([prompt], params, **options)[0]

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Any
    ) -> Stream:
        """The steps of an answer as they are made; arguments and errors as of `generate`.

        Example:
            >>> chat = [{"role": "user", "content": "What is 77 - 49?"}]
            >>> with Ensemble.pocket() as ensemble, ensemble.stream(chat) as steps:
            ...     [step.text for step in steps]
            ['7', '7', ' -', ' ', '4', '9', ' =', ' ', '2', '8', '']

        """
        return Stream(self._submission(prompt, params, options), owner=self)

    def batch(
        self, prompts: Sequence[Prompt], params: SamplingParams | None = None, **options: Any
    ) -> list[Output]:
        """One answer per prompt, computed together; arguments and errors as of `generate`.

        If one answer fails, the others are stopped and its error is raised.

        Example:
            >>> questions = ["What is 77 - 49?", "What is 17 + 25?"]
            >>> chats = [[{"role": "user", "content": question}] for question in questions]
            >>> with Ensemble.pocket() as ensemble:
            ...     [output.text for output in ensemble.batch(chats)]
            ['77 - 49 = 28', '17 + 25 = 42']

        """
        _check_batch(prompts)
        answers: list[Completion] = []
        try:
            answers.extend(Completion(self._submission(p, params, options)) for p in prompts)
            return [Output.of(answer.steps()) for answer in answers]
        finally:
            for answer in answers:
                answer.close()

    async def agenerate(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Any
    ) -> Output:
        """`generate` for asyncio; cancelling the task stops the computing."""
        async with await self._astart(prompt, params, options) as stream:
            return Output.of([step async for step in stream])

    def astream(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Any
    ) -> AsyncStream:
        """`stream` for asyncio. Must be called while an event loop runs."""
        return AsyncStream(self._submission(prompt, params, options), owner=self)

    async def abatch(
        self, prompts: Sequence[Prompt], params: SamplingParams | None = None, **options: Any
    ) -> list[Output]:
        """`batch` for asyncio."""
        _check_batch(prompts)
        tasks = [asyncio.ensure_future(self.agenerate(p, params, **options)) for p in prompts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def aload(self, *, grammars: bool = False) -> None:
        """Load now, if it is not loaded yet, without blocking the event loop.

        Args:
            grammars: prepare for grammars, too, which takes a second for large vocabularies.

        """
        if self._runtime is None:
            await asyncio.to_thread(lambda: self.runtime)
        if grammars and not self.runtime.grammars.is_prepared:
            await asyncio.to_thread(self.runtime.grammars.prepare)

    @property
    def runtime(self) -> Runtime:
        """The loaded ensemble, which answers requests; loaded now if it was not yet.

        Raises:
            EngineClosedError: the ensemble was closed.
            ForkedError: it was loaded in the process that this one was forked from.

        """
        self._process.check()  # before the lock, which may be held there
        with self._runtime_lock:
            if self._is_closed:
                raise EngineClosedError("the ensemble is closed; load it again")
            if self._runtime is None:
                self._runtime = Runtime(self.config.active(), self._load(), self._spec)
                self._finalizer = weakref.finalize(self, self._runtime.engine.stop)
            return self._runtime

    @property
    def primary(self) -> int:
        """The index in `members` of the primary; usage counts its tokens."""
        return self.runtime.union.primary

    @property
    def is_loaded(self) -> bool:
        """Whether its models are loaded, so that it can answer at once."""
        return self._runtime is not None

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called; a closed ensemble answers no more."""
        return self._is_closed

    @property
    def members(self) -> tuple[Member, ...]:
        """The members that take part (of positive weight), loaded now if they were not yet."""
        return self.runtime.members

    @property
    def union(self) -> UnionVocabulary:
        """The union vocabulary."""
        return self.runtime.union

    @property
    def context_size(self) -> int | None:
        """The smallest context of all members in tokens; None if none has a limit."""
        limits = [s for m in self.members if (s := m.scorer.context_size) is not None]
        return min(limits, default=None)

    @property
    def can_think(self) -> bool:
        """Whether some member can think before it answers; see docs/thoughts.md."""
        return self.runtime.can_think

    def prompt_ids(self, prompt: Prompt) -> list[list[int]]:
        """The prompt's ids for each member.

        Raises:
            PromptError: it is malformed, or has no token for some member.

        """
        return self.runtime.prompt_ids(prompt)

    def close(self) -> None:
        """Stop all requests and free the models."""
        if self._process.is_elsewhere:
            self._is_closed = True
            return
        with self._runtime_lock:
            self._is_closed = True
            runtime, self._runtime = self._runtime, None
            self._load = list  # the loader may have a reference to the models
        if runtime is not None:
            runtime.engine.close()
            self._finalizer.detach()

    async def aclose(self) -> None:
        """`close` for asyncio."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The same ensemble: copies of objects that hold one share its models."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """As its configuration; the models are loaded anew where it is used."""
        if self._is_closed:
            raise EngineClosedError("the ensemble is closed; load it again, or hand on its config")
        if not isinstance(self._load, Loader):
            raise ConfigError(
                "an ensemble of models in memory can not be pickled; save them to folders, and "
                "make it with Ensemble.from_pretrained, or hand these on"
            )
        return partial(type(self), lazy=True, spec=self._spec), (self.config, self._load)

    def __repr__(self) -> str:
        return f"Ensemble({', '.join(self.config.names)}; {self.config.method})"

    # ------------------------------------------------ private

    async def _astart(
        self, prompt: Prompt, params: SamplingParams | None, options: dict[str, Any]
    ) -> AsyncStream:
        grammar = options.get("grammar", params.grammar if params is not None else None)
        await self.aload(grammars=grammar is not None)
        return self.astream(prompt, params, **options)

    def _submission(
        self, prompt: Prompt, params: SamplingParams | None, options: dict[str, Any]
    ) -> Callable[[Sink, OnError], Job]:
        """The checked request, ready to be submitted with a sink."""
        return self.runtime.submission(prompt, params, options)


def _check_batch(prompts: Sequence[Prompt]) -> None:
    if isinstance(prompts, (str, bytes)):
        raise PromptError("batch takes a list of prompts; for a single one use generate")
