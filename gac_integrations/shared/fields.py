"""The fields of a model object of any framework, and the ensemble that they name."""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, Field, PrivateAttr, model_validator
from pydantic.json_schema import SkipJsonSchema

from gac_core import ConfigError, Ensemble, EnsembleConfig, Step
from gac_integrations.shared.call import ChatRequest
from gac_integrations.shared.model_cache import config_named, shared_ensemble
from gac_integrations.shared.options import CONFIG, CallDefaults


@dataclass
class _Resolved:
    """The configuration and ensemble that the fields of a model object name.

    Attributes:
        named: the values of these fields.
        config: the configuration that they name.
        ensemble: of that configuration, once it was asked for.
        budget: the tokens that a prompt and its answer may have, once it was asked for.

    """

    named: tuple[object, ...]
    config: EnsembleConfig
    ensemble: Ensemble | None = None
    budget: int | None = None


class NamedEnsemble(BaseModel):
    """The fields that name an ensemble; the docstrings of `ChatGaC` and `GaCLLM` describe them."""

    model_config = CONFIG

    _naming_field: ClassVar[str] = "model_name"

    config: EnsembleConfig | None = None
    ensemble: SkipJsonSchema[Ensemble | None] = Field(None, exclude=True, repr=False)

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.config is not None and self.ensemble is not None:
            raise ValueError("give config or ensemble, not both")
        _ = self._config
        return self

    _resolved: _Resolved | None = PrivateAttr(None)

    @property
    def _named(self) -> str:
        """What the field says in which this class has a model's name."""
        return str(getattr(self, self._naming_field))

    @property
    def _config(self) -> EnsembleConfig:
        return self._resolve().config

    @property
    def _ensemble(self) -> Ensemble:
        if self.ensemble is not None:
            return self.ensemble
        resolved = self._resolve()
        if resolved.ensemble is None or resolved.ensemble.is_closed:
            resolved.ensemble = shared_ensemble(resolved.config)
        return resolved.ensemble

    @property
    def _shown_name(self) -> str:
        """The model's name in its answers: as it was given, or the names of its members."""
        if self.config is None and self.ensemble is None:
            return self._named
        return "+".join(self._config.names)

    def _resolve(self) -> _Resolved:
        """The configuration and ensemble that the fields name; looked up anew if these changed."""
        named = (self._named, self.config, self.ensemble)
        if self._resolved is None or self._resolved.named != named:
            config = self.config or (self.ensemble.config if self.ensemble is not None else None)
            self._resolved = _Resolved(named, config or config_named(self._named))
        return self._resolved

    def __getstate__(self) -> dict[Any, Any]:
        if self.ensemble is not None:
            raise ConfigError(
                "an ensemble that was handed over can not be pickled; use model= or config="
            )
        state = BaseModel.__getstate__(self)
        return {**state, "__pydantic_private__": {"_resolved": None}}


class EnsembleFields(NamedEnsemble, CallDefaults):
    """Fields of a model that writes."""

    model_config = CONFIG

    model_name: str = Field("pocket", alias="model")

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
            with request.deadline.limiting(stream):
                async for step in stream:
                    yield step
