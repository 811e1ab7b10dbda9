"""What can be set, checked as it is set: members, fusion, gate, sampling; YAML in and out."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gac_core.errors import ConfigError
from gac_core.grammar import Grammar

MAX_SEED: Final = 2**63 - 1


class _Checked(BaseModel):
    """Frozen, and an unknown name is an error.

    The constructors raise pydantic's `ValidationError`, `of` the same as one-line `ConfigError`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The model of these values.

        Raises:
            ConfigError: a name is unknown or a value out of range, each named.

        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            known = ", ".join(cls.model_fields)
            lines = []
            for problem in error.errors():
                where = ".".join(str(part) for part in problem["loc"]) or cls.__name__
                if problem["type"] == "extra_forbidden":
                    lines.append(f"{where}: unknown option; {cls.__name__} has: {known}")
                elif problem["type"] == "value_error":
                    lines.append(problem["msg"].removeprefix("Value error, "))
                else:
                    lines.append(f"{where}: {problem['msg']}, got {problem['input']!r}")
            raise ConfigError("; ".join(lines)) from error


class SamplingParams(_Checked):
    """How one answer is drawn and when it ends."""

    max_new_tokens: int = Field(256, ge=1, description="steps at most, the end included")
    temperature: float = Field(0.0, ge=0.0, description="0 is greedy")
    top_k: int = Field(0, ge=0, description="keep the k most probable units; 0 keeps all")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="keep units up to this mass")
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


class MemberConfig(_Checked):
    """One model and where it runs."""

    model: str = Field(description="a hub name or a folder")
    name: str | None = Field(None, description="what messages and steps call it")
    revision: str | None = Field(None, description="a commit, tag or branch on the hub")
    weight: float | None = Field(None, ge=0.0, description="None: all equal; 0: left out")
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps, or auto")
    device_map: str | dict[str, int | str] | None = Field(
        None, description="spread over several devices by accelerate: auto, balanced, or a map"
    )
    max_memory: dict[int | str, int | str] | None = Field(
        None, description="with device_map: the most each device may hold, such as {0: 20GiB}"
    )
    dtype: Literal["auto", "float64", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of the weights; auto is what they are stored in"
    )
    quantization: dict[str, Any] | None = Field(
        None, description="a transformers quantization config, such as {quant_method: ...}"
    )
    attention: Literal["sdpa", "eager"] = Field("sdpa", description="sdpa, or eager")
    trust_remote_code: bool = Field(False, description="run code from the model's repository")
    text_tokens: tuple[str, ...] = Field(
        (), description="added tokens that count as text, such as <think>"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_model(cls, values: Any) -> Any:
        return {"model": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _placed_once(self) -> Self:
        if self.device_map is not None and self.device != "auto":
            raise ValueError("device and device_map exclude each other; give one of them")
        if self.max_memory is not None and self.device_map is None:
            raise ValueError("max_memory needs device_map; add device_map: auto")
        return self


class EnsembleConfig(_Checked):
    """Which models write together, and how."""

    members: tuple[MemberConfig, ...] = Field(min_length=1)
    method: Literal["every_step", "cascade"] = Field(
        "every_step", description="every_step, or cascade: only where the primary is unsure"
    )
    fusion: Literal["mean", "geometric"] = Field(
        "mean", description="mean: the weighted average; geometric: the weighted product"
    )
    threshold: float | None = Field(
        None,
        ge=0.0,
        description="cascade: the primary decides alone above this probability; 0.5 if left out",
    )
    primary: int = Field(0, ge=0, description="index of the member asked first")
    history: Literal["reencode", "append"] = Field(
        "reencode", description="reencode, or append: how members are told what others wrote"
    )
    max_batch: int = Field(64, ge=1, description="requests that run at the same time")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        count = len(self.members)
        if self.primary >= count:
            raise ValueError(
                f"primary is {self.primary}, but there are {count} members (0 to {count - 1})"
            )
        weights = self.weights
        if not sum(weights) > 0:
            raise ValueError("all weights are 0; give at least one member a positive weight")
        if weights[self.primary] == 0:
            raise ValueError(
                f"the primary (member {self.primary}) has weight 0; choose another primary"
            )
        if self.threshold is not None and self.method != "cascade":
            raise ValueError(f"threshold needs method cascade; {self.method} fuses every step")
        given = [m.name for m in self.members if m.name is not None]
        if len(set(given)) < len(given):
            raise ValueError(f"two members have the same name: {given}")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each member, as given; 1 where none was."""
        return tuple(1.0 if m.weight is None else m.weight for m in self.members)

    @classmethod
    def from_yaml(cls, path: str | Path) -> "EnsembleConfig":
        """Read a YAML file; a model given as a relative folder is relative to the file.

        Raises:
            ConfigError: there is no such file, it is no YAML, or an option is wrong.

        """
        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"there is no file {path}; `gac config` writes one") from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            problem = " ".join(str(error).split())
            raise ConfigError(f"{path} can not be read as YAML: {problem}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} must hold a mapping with members, not {values!r}")
        try:
            config = cls.of(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        members = tuple(
            m.model_copy(update={"model": str(path.parent / m.model)})
            if m.model.startswith(("./", "../")) or (path.parent / m.model).is_dir()
            else m
            for m in config.members
        )
        return config.model_copy(update={"members": members})

    def to_yaml(self) -> str:
        """The options that differ from their defaults, as YAML."""
        return yaml.safe_dump(
            self.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
        )
