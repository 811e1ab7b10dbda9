"""What there is to know of a decoding method before it runs: its options, and what it refuses.

YAML, keyword arguments, the command line, the docs' table, `gac eval --all` and the laws read the
specs. Each stands in its method's file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from gac_core.errors import ConfigError

PRESETS: Final[dict[str, dict[str, str]]] = {  # names in the field for ways to fuse at every step
    "unite": {"fusion": "unite"},
    "geometric": {"fusion": "geometric"},
    "core": {"fusion": "core"},
    "packllm": {"weighting": "prompt"},
    "posterior": {"weighting": "posterior"},
    "entropy": {"weighting": "entropy"},
    "mod": {"fusion": "mean", "weighting": "fixed", "history": "append"},
}


class Checked(BaseModel):
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
            lines = []
            for problem in error.errors():
                where = ".".join(str(part) for part in problem["loc"]) or cls.__name__
                if problem["type"] == "extra_forbidden":
                    known = ", ".join(cls._option_names(values))
                    lines.append(f"{where}: unknown option; {cls.__name__} has: {known}")
                elif problem["type"] == "value_error":
                    lines.append(problem["msg"].removeprefix("Value error, "))
                else:
                    lines.append(f"{where}: {problem['msg']}, got {problem['input']!r}")
            raise ConfigError("; ".join(lines)) from error

    @classmethod
    def _option_names(cls, values: dict[str, Any]) -> list[str]:  # noqa: ARG003
        return list(cls.model_fields)

    @property
    def changed(self) -> frozenset[str]:
        """The names of the options that differ from their defaults."""
        fields = type(self).model_fields
        return frozenset(n for n in fields if getattr(self, n) != fields[n].default)


class MethodOptions(Checked):
    """Base of the options that only one method has.

    They stand flat beside those of the ensemble, in YAML and as keyword arguments. An option that
    names a file is annotated with `RelativePath`.
    """


class RelativePath:
    """Marks an option that names a file, relative to the YAML file that says so."""


@dataclass(frozen=True)
class MethodSpec:
    """A decoding method and all that is known of it.

    Attributes:
        name: what `method=...` calls it.
        method: a generator function of one `Request`; see `gac_core.methods`.
        summary: what it does, in a line.
        paper: the address of its paper.
        options: those that only it has.
        ignores: options of the ensemble that mean nothing to it; giving one is an error.
        scores_text: whether its members read the text token by token with `Request.read`, which
            weightings by the text so far need.
        space: what its answers are made of. "bytes" is for methods that emit single bytes; where
            all members share one vocabulary, tokens are common units already, and `every_step` is
            run in its place.
        refuses: what else it refuses, in words for the docs.
        check: given an `EnsembleConfig` and `SamplingParams`, raises `ConfigError` for sampling
            that it can not follow.
        resource: given its options and the primary `Member`, makes what all its requests share
            (`request.resource`).
        examples: options with which the laws are run.

    """

    name: str
    method: Callable[..., Any]
    summary: str = ""
    paper: str = ""
    options: type[MethodOptions] = MethodOptions
    ignores: tuple[str, ...] = ()
    scores_text: bool = True
    space: Literal["tokens", "bytes"] = "tokens"
    refuses: str = ""
    check: Callable[[Any, Any], None] | None = None
    resource: Callable[[Any, Any], Any] | None = None
    examples: tuple[Mapping[str, Any], ...] = ({},)
