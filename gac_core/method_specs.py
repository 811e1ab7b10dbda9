"""`MethodSpec`: the description of a decoding method, with its options and what it refuses.

YAML, keyword arguments, the command line, the docs' table, `gac eval --all` and the laws read the
specs. Each spec is in its method's file.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from gac_core.errors import ConfigError

# In which members meet: the union of their tokens, the primary's tokens as all members score them,
# or bytes.
SpaceName = Literal["tokens", "scored", "bytes"]

# Names of the literature for ways to fuse at every step, and the options that each stands for.
PRESETS: Final[dict[str, dict[str, str]]] = {
    "gac": {"space": "tokens", "fusion": "mean"},
    "unite": {"space": "tokens", "fusion": "unite"},
    "core": {"space": "tokens", "fusion": "core"},
    "chared": {"space": "bytes", "fusion": "mean"},
    "geometric": {"fusion": "geometric"},
    "packllm": {"weighting": "prompt"},
    "posterior": {"weighting": "posterior"},
    "entropy": {"weighting": "entropy"},
    "mod": {"space": "tokens", "fusion": "mean", "weighting": "fixed", "history": "append"},
}


# How pydantic names the types of a union in the place of an error: str, constrained-int, ...
_UNION_TYPE: Final = re.compile(r"(?:constrained-)?(?:str|int|float|bool)$|(?:literal|dict|list)\[")


class Checked(BaseModel):
    """Base of all options: frozen, and an unknown name is an error.

    Constructors raise pydantic's `ValidationError`, `of` raises it as a `ConfigError` of one line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """An instance with these values.

        Raises:
            ConfigError: a name is unknown or a value out of range, each named.

        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines: list[str] = []
            wrong: dict[str, list[str]] = {}  # of a union, what is wrong with each of its types
            for problem in error.errors():
                loc = [str(part) for part in problem["loc"] if not _UNION_TYPE.match(str(part))]
                where = ".".join(loc) or cls.__name__
                if len(loc) < len(problem["loc"]):
                    messages = wrong.setdefault(f"{where}: got {problem['input']!r}", [])
                    messages.append(problem["msg"])
                elif problem["type"] == "extra_forbidden":
                    known = ", ".join(cls._option_names(values))
                    lines.append(f"{where}: unknown option; {cls.__name__} has: {known}")
                elif problem["type"] == "value_error":
                    lines.append(problem["msg"].removeprefix("Value error, "))
                else:
                    lines.append(f"{where}: {problem['msg']}, got {problem['input']!r}")
            lines += [f"{got}; {', or '.join(messages)}" for got, messages in wrong.items()]
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

    They are given flat beside those of the ensemble, in YAML and as keyword arguments. An option
    that names a file is annotated with `RelativePath`. Null stands for the default, where it is no
    value of the option.

    Example:
        A cascade that stays with all members for some steps after each doubtful one:

        >>> from pydantic import Field
        >>> from gac_core import Ensemble, MethodOptions, register_method
        >>> class LingerOptions(MethodOptions):
        ...     threshold: float = Field(0.9, ge=0, description="the primary decides alone above")
        ...     linger: int = Field(2, ge=1, description="steps that all members then decide")
        >>> def linger(request):
        ...     left = 0
        ...     while not request.finished:
        ...         own = request.read((yield request.ask(request.primary)))
        ...         if request.legal(own[request.primary]).max() <= request.options.threshold:
        ...             left = request.options.linger
        ...         if left == 0:
        ...             yield request.emit_alone(own[request.primary])
        ...             continue
        ...         left -= 1
        ...         own |= request.read((yield request.ask(*request.others)))
        ...         yield request.emit_fused(request.fuse(own))
        >>> register_method("linger", linger, options=LingerOptions)
        >>> chat = [{"role": "user", "content": "What is 77 - 49?"}]
        >>> with Ensemble.pocket(method="linger", linger=3, primary=2) as ensemble:
        ...     output = ensemble.generate(chat)
        >>> output.text, output.usage.fused_steps
        ('77 - 49 = 28', 3)

    """

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {
            name: value
            for name, value in values.items()
            if value is not None or name not in fields or _admits_none(fields[name].annotation)
        }


def _admits_none(annotation: Any) -> bool:
    return annotation is Any or type(None) in get_args(annotation)


@dataclass(frozen=True)
class RelativePath:
    """Marks an option that names a file: in a YAML file, relative to that file's folder."""


_IGNORABLE: Final = (
    *("fusion", "weighting", "temper", "space", "paths", "history"),
    *("draft", "draft_length"),
)


@dataclass(frozen=True)
class MethodSpec:
    """A decoding method with its options and properties.

    Attributes:
        name: its name for `method=...`.
        method: a generator function of one `Request`; see `gac_core.methods`.
        summary: what it does, in a line.
        paper: the address of its paper.
        options: the model of the options that only this method has.
        ignores: options of the ensemble that mean nothing to it; giving one is an error.
        scores_text: whether its members score the text token by token with `Request.read`, which
            weightings by the text so far need.
        spaces: those in which it can run; the union of tokens alone by default. A method that asks
            and emits by `Request.look` and `Request.write` runs in all of them.
        decides_by_top: whether all it does with what members hold likely is to write it, or to
            compare it with the threshold that it gave `Request.look`; then the likeliest tokens of
            a server may do, and it is found out where they do not.
        refuses: what else it refuses, in words for the docs.
        check: given an `EnsembleConfig` and `SamplingParams`, raises `ConfigError` for sampling
            that it can not follow.
        resource: given its options and the primary `Member`, makes what all its requests share
            (`request.resource`).
        examples: options with which the laws are run.

    Example:
        >>> from gac_core import MethodSpec, register_method
        >>> def alone(request):
        ...     while not request.finished:
        ...         own = request.read((yield request.ask(request.primary)))
        ...         yield request.emit_alone(own[request.primary])
        >>> spec = MethodSpec("alone", alone, ignores=("fusion", "weighting"))
        >>> register_method("alone", spec)
        >>> from gac_core import EnsembleConfig
        >>> EnsembleConfig.of({"members": ["org/model-a"], "method": "alone", "fusion": "unite"})
        Traceback (most recent call last):
        gac_core.errors.ConfigError: fusion means nothing to method alone; leave it out

    """

    name: str
    method: Callable[..., Any]
    summary: str = ""
    paper: str = ""
    options: type[MethodOptions] = MethodOptions
    ignores: tuple[str, ...] = ()
    scores_text: bool = True
    spaces: tuple[SpaceName, ...] = ("tokens",)
    decides_by_top: bool = False
    refuses: str = ""
    check: Callable[[Any, Any], None] | None = None
    resource: Callable[[Any, Any], Any] | None = None
    examples: tuple[Mapping[str, Any], ...] = ({},)

    def __post_init__(self) -> None:
        wrong = ""
        if not (isinstance(self.options, type) and issubclass(self.options, MethodOptions)):
            wrong = f"options must be a subclass of MethodOptions, not {self.options!r:.80}"
        elif shadowing := [n for n in self.options.model_fields if hasattr(MethodOptions, n)]:
            wrong = f"options has the names {shadowing} of its base class; rename them"
        elif isinstance(self.ignores, str) or set(self.ignores) - set(_IGNORABLE):
            wrong = f"ignores must name some of {_IGNORABLE}, not {self.ignores!r}"
        elif isinstance(self.spaces, str) or not set(self.spaces) <= set(get_args(SpaceName)):
            wrong = f"spaces must be some of {get_args(SpaceName)}, not {self.spaces!r}"
        elif not self.spaces:
            wrong = "spaces must name at least one"
        if wrong:
            raise ConfigError(f"method {self.name}: {wrong}")
