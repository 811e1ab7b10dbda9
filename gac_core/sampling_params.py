"""How one answer is drawn and when it ends."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from gac_core.grammar.grammar import Grammar
from gac_core.method_specs import Checked

MAX_SEED: Final = 2**63 - 1  # the largest signed integer of 64 bits
# What generation configs of models have under the same names.
_MODELS_OWN: Final = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class SamplingParams(Checked):
    """How one answer is drawn and when it ends.

    Example:
        >>> from gac_core import Ensemble, SamplingParams
        >>> params = SamplingParams(max_new_tokens=6, temperature=0.7, top_p=0.9, seed=1)
        >>> chat = [{"role": "user", "content": "What is 77 - 49?"}]
        >>> with Ensemble.pocket() as ensemble:
        ...     output = ensemble.generate(chat, params, temperature=0.0)  # options override
        >>> output.text, output.finish_reason
        ('77 - 49', 'length')
        >>> SamplingParams.of({"top_p": 2})
        Traceback (most recent call last):
        gac_core.errors.ConfigError: top_p: Input should be less than or equal to 1, got 2

    """

    max_new_tokens: int = Field(
        256, ge=1, description="steps at most, those of a thought and the end included"
    )
    temperature: float = Field(0.0, ge=0.0, description="0 is greedy")
    top_k: int = Field(0, ge=0, description="keep the k most probable units; 0 keeps all")
    top_p: float = Field(
        1.0, gt=0.0, le=1.0, description="nucleus sampling: keep the top units up to this mass"
    )
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="drop units below this share of the top")
    repetition_penalty: float = Field(
        1.0, gt=0.0, description="on each member's own ids; above 1 discourages repetition"
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="None draws one and reports it")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="the answer ends before the first of these"
    )
    grammar: Grammar | None = Field(None, description="the language the answer is held to")
    thinking: Literal["auto", "on", "off"] = Field(
        "auto",
        description="whether members that can think before they answer do: auto is as their chat "
        "templates and they themselves have it",
    )
    max_thought_tokens: int | None = Field(
        None, ge=0, description="steps of a thought at most; None is as many as the answer may have"
    )
    logprobs: bool = Field(False, description="keep the most probable units of each step")
    top_logprobs: int = Field(5, ge=0, le=100, description="how many, with logprobs")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.grammar is not None and self.stop and not self.grammar.begins_free:
            raise ValueError("a stop string could cut what the grammar holds together; drop one")
        if "top_logprobs" in self.model_fields_set and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=True")
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_stop(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("stop"), str):
            return {**values, "stop": (values["stop"],)}
        if isinstance(values, dict) and "stop" in values and values["stop"] is None:
            return {**values, "stop": ()}
        return values


def sampling_defaults(config: Mapping[str, Any]) -> dict[str, float]:
    """The fields of `SamplingParams` that a generation config sets.

    transformers samples only if `do_sample` says so; what else is set is for those who turn it on.

    Args:
        config: the values of a `generation_config.json`.

    """
    given = {name: config[name] for name in _MODELS_OWN if config.get(name) is not None}
    if not config.get("do_sample"):
        penalty = given.get("repetition_penalty")
        return {} if penalty is None else {"repetition_penalty": penalty}
    return {"temperature": 1.0, **given}
