"""What the model objects of all frameworks have in common: whose ensemble it is, how it draws."""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from gac_core import ConfigError, Ensemble, EnsembleConfig, Step
from gac_integrations.shared.call import ChatRequest, sampling_params
from gac_integrations.shared.model_cache import config_named, shared_ensemble

# To be repeated in each class, since the frameworks' bases have other settings.
CONFIG: Final = ConfigDict(
    extra="forbid", populate_by_name=True, arbitrary_types_allowed=True, protected_namespaces=()
)


@dataclass
class _Found:
    """What fields of certain values name."""

    named: tuple[object, ...]
    config: EnsembleConfig
    ensemble: Ensemble | None = None
    room: int | None = None  # of a prompt and its answer, once it was asked for


class EnsembleFields(BaseModel):
    """Fields of a model object; the docstrings of `ChatGaC` and `GaCLLM` describe them."""

    model_config = CONFIG

    model_name: str = Field("pocket", alias="model")
    config: EnsembleConfig | None = None
    ensemble: SkipJsonSchema[Ensemble | None] = Field(None, exclude=True, repr=False)
    temperature: float = 0.0
    max_tokens: int | None = Field(None, alias="max_new_tokens")
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] | None = Field(None, alias="stop_sequences")
    logprobs: bool = False
    top_logprobs: int | None = None
    parallel_tool_calls: bool = True
    timeout: float | None = Field(None, gt=0)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.config is not None and self.ensemble is not None:
            raise ValueError("give config or ensemble, not both")
        _ = self._config
        sampling_params(self, {})
        return self

    _found: _Found | None = PrivateAttr(None)

    @property
    def _config(self) -> EnsembleConfig:
        return self._find().config

    @property
    def _ensemble(self) -> Ensemble:
        if self.ensemble is not None:
            return self.ensemble
        found = self._find()
        if found.ensemble is None or found.ensemble.is_closed:
            found.ensemble = shared_ensemble(found.config)
        return found.ensemble

    @property
    def _shown_name(self) -> str:
        """What answers say wrote them: the model's name, or the names of its members."""
        if self.config is None and self.ensemble is None:
            return self.model_name
        return "+".join(self._config.names)

    def _find(self) -> _Found:
        """What the fields name; looked up anew if they were changed."""
        named = (self.model_name, self.config, self.ensemble)
        if self._found is None or self._found.named != named:
            config = self.config or (self.ensemble.config if self.ensemble is not None else None)
            self._found = _Found(named, config or config_named(self.model_name))
        return self._found

    def _steps(self, request: ChatRequest) -> Iterator[Step]:
        with (
            self._ensemble.stream(request.prompt, request.params) as stream,
            request.deadline.limiting(stream),
        ):
            yield from stream

    async def _asteps(self, request: ChatRequest) -> AsyncGenerator[Step]:
        ensemble = self._ensemble
        await ensemble.aload(grammars=request.params.grammar is not None)
        async with ensemble.astream(request.prompt, request.params) as stream:
            with request.deadline.alimiting(stream):
                async for step in stream:
                    yield step

    def __getstate__(self) -> dict[Any, Any]:
        if self.ensemble is not None:
            raise ConfigError(
                "an ensemble that was handed over can not be pickled; use model= or config="
            )
        state = BaseModel.__getstate__(self)
        return {**state, "__pydantic_private__": {"_found": None}}
