"""What LangChain asks of every model, chat or plain."""

from collections.abc import Callable
from typing import Any

from langchain_core.language_models import LangSmithParams
from pydantic import Field, SecretStr

from gac_integrations.langchain.errors import translated_errors
from gac_integrations.shared.fields import EnsembleFields
from gac_integrations.shared.model_cache import unique_name
from gac_integrations.shared.options import CONFIG, SAMPLING


class LangChainFields(EnsembleFields):
    """Fields and helpers; the docstring of `ChatGaC` describes them."""

    model_config = CONFIG

    custom_get_token_ids: Callable[[str], list[int]] | None = Field(None, exclude=True)
    max_retries: int = 0
    api_key: SecretStr | None = None

    def __getstate__(self) -> dict[Any, Any]:
        with translated_errors():
            return super().__getstate__()

    def get_token_ids(self, text: str) -> list[int]:
        """The primary's ids of a text, or those of `custom_get_token_ids`."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        ensemble = self._ensemble
        return ensemble.members[ensemble.primary].tokenizer.encode_prompt(text)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that can change an answer; the key of LangChain's cache."""
        return {
            "model_name": self.model_name,
            "ensemble": self._config.model_dump(mode="json"),
            "loaded": None if self.ensemble is None else unique_name(self.ensemble),
            **{name: getattr(self, name) for name in (*SAMPLING, "parallel_tool_calls")},
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params: LangSmithParams = super()._get_ls_params(  # type: ignore[misc]
            stop=stop or self.stop, **kwargs
        )
        params["ls_provider"] = "gac"
        params["ls_model_name"] = kwargs.get("model", self.model_name)
        return params
