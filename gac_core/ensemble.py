"""`Ensemble`: load, generate, stream, batch, and their async twins."""

import asyncio
import secrets
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gac_core import fusion
from gac_core.config import MAX_SEED, EnsembleConfig, MemberConfig, SamplingParams
from gac_core.engine import Engine, OnError, Ticket
from gac_core.errors import ConfigError, ContextOverflowError, EngineClosedError, PromptError
from gac_core.loading import Loaded, load_members, member_names
from gac_core.methods import METHODS
from gac_core.prompt import Message, check_text, opens_with_space, render_prompt
from gac_core.request import Member, Request, Settings
from gac_core.run import Sink
from gac_core.scorer import Scorer
from gac_core.speller import Speller
from gac_core.steps import Output
from gac_core.streams import AsyncStream, Stream
from gac_core.union import Union, check_spelling
from gac_core.vocabulary import Vocabulary

Prompt = str | Sequence[Message]

POCKET_MEMBERS: Final = ("ada", "bo", "cy")


def pocket_folder(name: str) -> Path:
    """Where an embedded member is."""
    return Path(str(files("gac_core.pocket"))) / "members" / name


class _Parts:
    """What an ensemble is made of once it is loaded."""

    def __init__(self, config: EnsembleConfig, loaded: Sequence[Loaded]) -> None:
        total = sum(config.weights)
        used = [i for i, weight in enumerate(config.weights) if weight > 0]
        self.tokenizers = [member.tokenizer for member in loaded]
        members = []
        for index, member in zip(used, loaded, strict=True):
            scorer = Scorer(member.model, member.name)
            vocabulary = Vocabulary.of(
                member.tokenizer,
                rows=scorer.rows,
                end_ids=member.end_ids,
                text_tokens=member.text_tokens,
            )
            members.append(
                Member(
                    member.name,
                    scorer,
                    Speller(member.tokenizer, vocabulary),
                    config.weights[index] / total,
                    opens_with_space(member.tokenizer, vocabulary),
                )
            )
        check_spelling([m.speller for m in members])
        primary = used.index(config.primary)
        self.settings = Settings(
            tuple(members),
            Union([m.speller.vocabulary for m in members], primary, members[primary].scorer.device),
            fusion.RULES[config.fusion],
            config.threshold,
            primary,
            config.history,
        )
        self.engine = Engine(members, config.max_batch)
        self.render_lock = threading.Lock()  # tokenizers are not made for many threads


class Ensemble:
    """Several language models that write one text together.

    Make one with `pocket`, `from_pretrained`, `from_config` or `from_models`; use it as a context
    manager or `close` it. It may be used from many threads and tasks at once: requests that run at
    the same time share the members' forward passes.

    Attributes:
        config: how it was made.

    """

    def __init__(
        self, config: EnsembleConfig, load: Callable[[], Sequence[Loaded]], *, lazy: bool = False
    ) -> None:
        self.config = config
        self._load = load
        self._parts: _Parts | None = None
        self._parts_lock = threading.Lock()
        self._is_closed = False
        if not lazy:
            self._loaded()

    # ------------------------------------------------ making one

    @classmethod
    def pocket(cls, *, lazy: bool = False, **options: Any) -> "Ensemble":
        """The embedded ensemble: three tiny chat models in this package, for the CPU, offline.

        Args:
            lazy: load when first used.
            options: of `EnsembleConfig`, and `weights`.

        """
        members = [
            MemberConfig(model=str(pocket_folder(name)), name=name, device="cpu", dtype="float32")
            for name in POCKET_MEMBERS
        ]
        config = _config_of(members, options)
        return cls(config, partial(_load, config, progress=False), lazy=lazy)

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
        """Load models from folders or the hub.

        Args:
            models: folders or hub names.
            weights: one per model; all equal by default. A model of weight 0 is left out.
            device: where every model goes; "auto" spreads them over the GPUs.
            device_map: spread each model over several devices, by accelerate.
            max_memory: with `device_map`, the most each device may hold.
            dtype: of the weights; "auto" is what they are stored in.
            lazy: load when first used.
            progress: show progress bars.
            options: of `EnsembleConfig`: method, threshold, primary, fusion, history, max_batch.

        Raises:
            ConfigError: an option is unknown or out of range.
            LoadError: a model can not be loaded.
            VocabularyError: a tokenizer can not take part.

        """
        if isinstance(models, str) or not models:
            raise ConfigError("models must be a list of folders or hub names, one or more")
        placed = {"device": device, "device_map": device_map, "max_memory": max_memory}
        members = [MemberConfig.of({"model": str(m), "dtype": dtype, **placed}) for m in models]
        config = _config_of(members, {"weights": weights, **options})
        return cls(config, partial(_load, config, progress=progress), lazy=lazy)

    @classmethod
    def from_config(
        cls, config: EnsembleConfig | str | Path, *, lazy: bool = False, progress: bool = True
    ) -> "Ensemble":
        """Load what a configuration, or a YAML file of one, names.

        Raises:
            ConfigError: the file is missing or wrong.
            LoadError: a model can not be loaded.
            VocabularyError: a tokenizer can not take part.

        """
        if not isinstance(config, EnsembleConfig):
            config = EnsembleConfig.from_yaml(config)
        return cls(config, partial(_load, config, progress=progress), lazy=lazy)

    @classmethod
    def from_models(
        cls,
        models: Sequence[tuple[PreTrainedModel, PreTrainedTokenizerBase]],
        *,
        names: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        **options: Any,
    ) -> "Ensemble":
        """Put models together that are loaded already.

        Args:
            models: (model, tokenizer) pairs; the models are put in evaluation mode.
            names: one per model.
            weights: one per model; all equal by default.
            options: of `EnsembleConfig`.

        """
        if names is not None and len(names) != len(models):
            raise ConfigError(f"there are {len(models)} models and {len(names)} names")
        paths = [model.name_or_path or "model" for model, _ in models]
        members = [
            MemberConfig(model=path, name=names[i] if names else None)
            for i, path in enumerate(paths)
        ]
        config = _config_of(members, {"weights": weights, **options})
        shown = member_names(config.members)
        loaded = [
            Loaded(shown[i], model.eval(), tokenizer)
            for i, (model, tokenizer) in enumerate(models)
            if config.weights[i] > 0
        ]
        return cls(config, lambda: loaded)

    # ------------------------------------------------ using it

    def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Any
    ) -> Output:
        """Write one answer.

        Args:
            prompt: a raw text to go on with, or chat messages (dicts of role and content), which
                every member reads in its own chat template.
            params: how to draw; greedy by default.
            options: single fields of `SamplingParams`, over `params`.

        Raises:
            ConfigError: an option is unknown or out of range.
            PromptError: the prompt is malformed, empty, or does not fit a member's context.
            MemberError: a member failed.
            EngineClosedError: the ensemble was closed.

        """
        return Output.of(list(self.stream(prompt, params, **options)))

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Any
    ) -> Stream:
        """The steps of an answer as they are made; see `generate`."""
        return Stream(self._submission(prompt, params, options))

    def batch(
        self, prompts: Sequence[Prompt], params: SamplingParams | None = None, **options: Any
    ) -> list[Output]:
        """One answer per prompt, computed together; see `generate`.

        If one fails, the others are stopped and its error is raised.
        """
        _check_batch(prompts)
        streams: list[Stream] = []
        try:
            streams += [self.stream(prompt, params, **options) for prompt in prompts]
            return [Output.of(list(stream)) for stream in streams]
        finally:
            for stream in streams:
                stream.close()

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
        return AsyncStream(self._submission(prompt, params, options))

    async def abatch(
        self, prompts: Sequence[Prompt], params: SamplingParams | None = None, **options: Any
    ) -> list[Output]:
        """`batch` for asyncio."""
        _check_batch(prompts)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.agenerate(p, params, **options)) for p in prompts]
        return [task.result() for task in tasks]

    @property
    def members(self) -> tuple[Member, ...]:
        """The members that take part, loaded if they were not yet."""
        return self._loaded().settings.members

    @property
    def union(self) -> Union:
        """The union vocabulary."""
        return self._loaded().settings.union

    @property
    def context_size(self) -> int | None:
        """The smallest context of all members."""
        limits = [s for m in self.members if (s := m.scorer.context_size) is not None]
        return min(limits, default=None)

    def prompt_ids(self, prompt: Prompt) -> list[list[int]]:
        """The prompt as each member reads it.

        Raises:
            PromptError: it is malformed, or has no token for some member.

        """
        parts = self._loaded()
        members = parts.settings.members
        if isinstance(prompt, str):
            check_text(prompt, "the prompt")
            ids = [member.speller.encode_prompt(prompt) for member in members]
        else:
            with parts.render_lock:
                ids = [render_prompt(tokenizer, prompt) for tokenizer in parts.tokenizers]
        for member, own in zip(members, ids, strict=True):
            if not own:
                raise PromptError(
                    f"the prompt has no token for {member.name}, whose tokenizer adds no beginning "
                    "of text; give it at least one character"
                )
        return ids

    def close(self) -> None:
        """Stop all requests and free the models."""
        with self._parts_lock:
            self._is_closed = True
            parts, self._parts = self._parts, None
        if parts is not None:
            parts.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Ensemble({', '.join(member_names(self.config.members))}; {self.config.method})"

    # ------------------------------------------------ inside

    def _loaded(self) -> _Parts:
        with self._parts_lock:
            if self._is_closed:
                raise EngineClosedError("the ensemble is closed; load it again")
            if self._parts is None:
                self._parts = _Parts(self.config, self._load())
                weakref.finalize(self, self._parts.engine.close)
            return self._parts

    async def _astart(
        self, prompt: Prompt, params: SamplingParams | None, options: dict[str, Any]
    ) -> AsyncStream:
        if self._parts is None:
            await asyncio.to_thread(self._loaded)  # loading would hold the event loop up
        return self.astream(prompt, params, **options)

    def _submission(
        self, prompt: Prompt, params: SamplingParams | None, options: dict[str, Any]
    ) -> Callable[[Sink, OnError], Ticket]:
        """The checked request, ready to be submitted with a sink."""
        sampling = params or SamplingParams()
        if options:
            given = {name: getattr(sampling, name) for name in sampling.model_fields_set}
            sampling = SamplingParams.of({**given, **options})
        if sampling.seed is None:
            sampling = sampling.model_copy(update={"seed": secrets.randbelow(MAX_SEED)})
        parts = self._loaded()
        ids = self.prompt_ids(prompt)
        sampling = _fitted(sampling, parts.settings.members, ids)
        request = Request(parts.settings, ids, sampling, is_chat=not isinstance(prompt, str))
        method = METHODS[self.config.method]
        return partial(parts.engine.submit, method, request)


def _fitted(
    sampling: SamplingParams, members: Sequence[Member], prompts: Sequence[Sequence[int]]
) -> SamplingParams:
    """Sampling whose answer fits every member: a length that was not asked for gives way.

    Raises:
        ContextOverflowError: there is no room for the answer asked for.

    """
    asked = "max_new_tokens" in sampling.model_fields_set
    room = sampling.max_new_tokens
    for member, ids in zip(members, prompts, strict=True):
        limit = member.scorer.context_size
        if limit is None:
            continue
        needed = sampling.max_new_tokens if asked else 1
        if len(ids) + needed > limit:
            raise ContextOverflowError(
                f"the prompt has {len(ids)} tokens for {member.name} and the answer may have "
                f"{needed}, but its context holds {limit}; shorten the prompt"
                + (" or lower max_new_tokens" if asked and len(ids) < limit else "")
            )
        room = min(room, limit - len(ids))
    return sampling if asked else sampling.model_copy(update={"max_new_tokens": room})


def _config_of(members: Sequence[MemberConfig], options: dict[str, Any]) -> EnsembleConfig:
    weights = options.pop("weights", None)
    if weights is not None:
        if len(weights) != len(members):
            raise ConfigError(
                f"there are {len(members)} models and {len(weights)} weights; give one per model"
            )
        members = [
            MemberConfig.of({**m.model_dump(), "weight": w})
            for m, w in zip(members, weights, strict=True)
        ]
    return EnsembleConfig.of({"members": tuple(members), **options})


def _load(config: EnsembleConfig, *, progress: bool) -> list[Loaded]:
    used = [m for m, weight in zip(config.members, config.weights, strict=True) if weight > 0]
    names = [
        name
        for name, weight in zip(member_names(config.members), config.weights, strict=True)
        if weight > 0
    ]
    named = [m.model_copy(update={"name": name}) for m, name in zip(used, names, strict=True)]
    return load_members(named, progress=progress)


def _check_batch(prompts: Sequence[Prompt]) -> None:
    if isinstance(prompts, (str, bytes)):
        raise PromptError("batch takes a list of prompts; for a single one use generate")
