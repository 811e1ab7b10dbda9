"""What the chat model and the plain model have in common: whose ensemble it is, how it draws."""

from dataclasses import dataclass
from typing import Any, Final, Self

from langchain_core.language_models import LangSmithParams
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from gac_core import Ensemble, EnsembleConfig
from gac_integrations.langchain.errors import GaCInvalidRequestError, translated_errors
from gac_integrations.langchain.requests import SAMPLING, sampling_params
from gac_integrations.registry import config_named, number_of, shared_ensemble

# To be repeated in each class, since LangChain's bases have other settings.
CONFIG: Final = ConfigDict(
    extra="forbid", populate_by_name=True, arbitrary_types_allowed=True, protected_namespaces=()
)


@dataclass
class _Found:
    """What fields of certain values name."""

    named: tuple[object, ...]
    config: EnsembleConfig
    ensemble: Ensemble | None = None


class EnsembleFields(BaseModel):
    """Fields and helpers; the docstring of `ChatGaC` describes them."""

    model_config = CONFIG

    model_name: str = Field("pocket", alias="model")
    config: EnsembleConfig | None = None
    ensemble: Ensemble | None = Field(None, exclude=True, repr=False)
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
    timeout: float | None = Field(None, gt=0)
    max_retries: int = 0
    api_key: SecretStr | None = None

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.config is not None and self.ensemble is not None:
            raise ValueError("give config or ensemble, not both")
        with translated_errors():
            _ = self._config
            sampling_params(self, {})
        return self

    # ------------------------------------------------ what is behind it

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

    def _find(self) -> _Found:
        """What the fields name; looked up anew if they were changed."""
        named = (self.model_name, self.config, self.ensemble)
        if self._found is None or self._found.named != named:
            config = self.config or (self.ensemble.config if self.ensemble is not None else None)
            self._found = _Found(named, config or config_named(self.model_name))
        return self._found

    def __getstate__(self) -> dict[Any, Any]:
        if self.ensemble is not None:
            raise GaCInvalidRequestError(
                "an ensemble that was handed over can not be pickled; use model= or config="
            )
        state: dict[Any, Any] = super().__getstate__()
        return {**state, "__pydantic_private__": {"_found": None}}

    # ------------------------------------------------ what LangChain asks of it

    def get_token_ids(self, text: str) -> list[int]:
        """The primary's ids of a text."""
        ensemble = self._ensemble
        return ensemble.members[ensemble.primary].speller.encode_prompt(text)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that can change an answer; the key of LangChain's cache."""
        return {
            "model_name": self.model_name,
            "ensemble": self._config.model_dump(mode="json"),
            "loaded": None if self.ensemble is None else number_of(self.ensemble),
            **{name: getattr(self, name) for name in SAMPLING},
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params: LangSmithParams = super()._get_ls_params(  # type: ignore[misc]
            stop=stop or self.stop, **kwargs
        )
        params["ls_provider"] = "gac"
        params["ls_model_name"] = kwargs.get("model", self.model_name)
        return params
