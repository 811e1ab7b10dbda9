"""What can be set, checked as it is set: members, fusion, gate, sampling; YAML in and out."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gac_core.errors import ConfigError
from gac_core.grammar.grammar import Grammar
from gac_core.registry import find

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


METHODS: Final = ("every_step", "cascade", "safe", "chared", "twist", "co_llm")

PRESETS: Final[dict[str, dict[str, str]]] = {  # names in the field for ways to fuse at every step
    "unite": {"fusion": "unite"},
    "geometric": {"fusion": "geometric"},
    "core": {"fusion": "core"},
    "packllm": {"weighting": "prompt"},
    "posterior": {"weighting": "posterior"},
    "entropy": {"weighting": "entropy"},
    "mod": {"fusion": "mean", "weighting": "fixed", "history": "append"},
}

_ONLY_FOR: Final = {  # what no other method would listen to
    "threshold": ("cascade", "safe", "co_llm"),
    "block": ("safe",),
    "sharpen": ("safe",),
    "paths": ("chared",),
    "rounds": ("twist",),
    "beams": ("twist",),
    "guidance": ("twist",),
    "gate": ("co_llm",),
}
_NOT_SCORED: Final = ("safe", "chared")
_NOT_FOR: Final = {
    "fusion": ("chared", "twist"),
    "weighting": ("twist",),
    "history": ("chared", "twist"),
    "draft": ("safe", "chared", "twist"),
}


class EnsembleConfig(_Checked):
    """Which models write together, and how."""

    members: tuple[MemberConfig, ...] = Field(min_length=1)
    method: str = Field(
        "every_step",
        description=f"{', '.join(METHODS)}; one of the presets {', '.join(PRESETS)}; or one that "
        "was registered",
    )
    fusion: str = Field(
        "mean",
        description="mean, geometric, unite or core, or one that was registered: how distributions "
        "become one",
    )
    weighting: Literal["fixed", "prompt", "posterior", "entropy"] = Field(
        "fixed",
        description="fixed; or weights by how well members predict the prompt, the text so far, or "
        "how sure they are of the next unit",
    )
    temper: float = Field(
        1.0, ge=0.0, description="weighting: the exponent of that evidence; 0 is fixed"
    )
    threshold: float | None = Field(
        None,
        ge=0.0,
        description="cascade: the primary decides alone above this probability, 0.5 if left out; "
        "safe: it is not questioned above this one; co_llm: the others are asked above this one",
    )
    block: int = Field(5, ge=1, le=64, description="safe: tokens the primary drafts at a time")
    sharpen: Literal["geometric", "prefix", "none"] = Field(
        "geometric", description="safe: what is done about a fused distribution without a majority"
    )
    paths: Annotated[int, Field(ge=1, le=64)] | Literal["top"] = Field(
        "top", description="chared: tokenisations of the text kept per member; top is 1"
    )
    rounds: int = Field(1, ge=1, description="twist: turns of every member")
    beams: int = Field(1, ge=1, le=16, description="twist: width of each beam search")
    guidance: float = Field(
        0.3, ge=0.0, description="twist: how much a unit gains for being in the others' texts"
    )
    gate: str | None = Field(None, description="co_llm: a file that `gac fit-gate` wrote")
    draft: str | int | None = Field(
        None,
        description="write ahead to save time, with the same text: ngrams (of prompt and answer), "
        "or the index of a member that drafts",
    )
    draft_length: int = Field(8, ge=1, le=64, description="draft: units at most")
    primary: int = Field(0, ge=0, description="index of the member asked first")
    history: Literal["reencode", "append"] = Field(
        "reencode", description="reencode, or append: how members are told what others wrote"
    )
    max_batch: int = Field(64, ge=1, description="requests that run at the same time")

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, values: Any) -> Any:
        preset = PRESETS.get(str(values.get("method"))) if isinstance(values, dict) else None
        if preset is None:
            return values
        for name, value in preset.items():
            if values.get(name, value) != value:
                raise ValueError(f"method {values['method']} is {name} {value}; drop one of them")
        return {**values, **preset, "method": "every_step"}

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
        given = [m.name for m in self.members if m.name is not None]
        if len(set(given)) < len(given):
            raise ValueError(f"two members have the same name: {given}")
        self._check_method()
        return self

    def _check_method(self) -> None:
        if self.method not in METHODS or self.fusion != "mean":
            _check_registered(self.method, self.fusion)
        for name, methods in _ONLY_FOR.items():
            is_own = self.method not in METHODS  # somebody's own method may listen to all
            if name in self.changed and self.method not in methods and not is_own:
                raise ValueError(f"{name} needs method {' or '.join(methods)}, not {self.method}")
        for name, methods in _NOT_FOR.items():
            if name in self.changed and self.method in methods:
                raise ValueError(f"{name} means nothing to method {self.method}; leave it out")
        if "temper" in self.changed and self.weighting == "fixed":
            raise ValueError("temper needs weighting prompt, posterior or entropy")
        if self.method in _NOT_SCORED and self.weighting == "posterior":
            raise ValueError(
                f"method {self.method} takes weighting fixed, prompt or entropy, since its members "
                "do not read the text token by token"
            )
        if self.method == "co_llm" and self.gate is None:
            raise ValueError("method co_llm needs gate, a file that `gac fit-gate` writes")
        if self.draft is None:
            if "draft_length" in self.changed:
                raise ValueError("draft_length needs draft")
        elif isinstance(self.draft, str):
            if self.draft != "ngrams":
                raise ValueError(f"draft is ngrams or the index of a member, not {self.draft!r}")
        elif not 0 <= self.draft < len(self.members) or self.weights[self.draft] == 0:
            raise ValueError(f"draft is {self.draft}, which is no member with a positive weight")

    @property
    def changed(self) -> frozenset[str]:
        """The names of the options that differ from their defaults."""
        fields = type(self).model_fields
        return frozenset(
            name
            for name in fields
            if name != "members" and getattr(self, name) != fields[name].default
        )

    def with_method(self, method: str, **options: Any) -> "EnsembleConfig":
        """The same ensemble by another method or preset.

        Options that mean nothing to it are left out, and so is what another method understands in
        its own way (threshold).

        Args:
            method: its name.
            options: others than this ensemble's.

        Raises:
            ConfigError: the method lacks an option that it needs.

        """
        preset = PRESETS.get(method, {})
        base = "every_step" if preset else method
        kept = {
            name: getattr(self, name)
            for name in self.changed - {"method", *preset}
            if (name not in _ONLY_FOR or base == self.method) and base not in _NOT_FOR.get(name, ())
        }
        if base in _NOT_SCORED and kept.get("weighting") == "posterior":
            del kept["weighting"]
        if "draft" not in kept:
            kept.pop("draft_length", None)
        if {**kept, **preset}.get("weighting", "fixed") == "fixed":
            kept.pop("temper", None)
        return self.of({"members": self.members, "method": method, **kept, **options})

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each member, as given; 1 where none was."""
        return tuple(1.0 if m.weight is None else m.weight for m in self.members)

    @classmethod
    def from_yaml(cls, path: str | Path) -> "EnsembleConfig":
        """Read a YAML file; relative folders and gates are relative to the file.

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
        gate = config.gate and str(path.parent / config.gate)  # an absolute path stays as it is
        return config.model_copy(update={"members": members, "gate": gate})

    def to_yaml(self) -> str:
        """The options that differ from their defaults, as YAML."""
        return yaml.safe_dump(
            self.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
        )


def _check_registered(method: str, fusion: str) -> None:
    # Imported here: torch comes with them, and most mistakes are found without.
    from gac_core import methods
    from gac_core.fusion import rules

    try:
        find(methods.METHODS, "method", method, PRESETS)
        find(rules.RULES, "fusion", fusion)
    except ConfigError as error:
        raise ValueError(str(error)) from error
