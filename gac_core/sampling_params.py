"""How one answer is drawn and when it ends."""

from typing import Annotated, Any, Final, Self

from pydantic import Field, model_validator

from gac_core.grammar.grammar import Grammar
from gac_core.method_specs import Checked

MAX_SEED: Final = 2**63 - 1  # the largest signed integer of 64 bits


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

    max_new_tokens: int = Field(256, ge=1, description="steps at most, the end included")
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
