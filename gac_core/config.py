"""The options of sampling, members and ensembles, checked as they are set; from and to YAML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    Field,
    GetJsonSchemaHandler,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from gac_core.errors import ConfigError, one_line
from gac_core.flat_options import flattened, gathered, method_options, option_names
from gac_core.member_config import MemberConfig, member_names
from gac_core.method_specs import PRESETS, Checked, MethodOptions, RelativePath
from gac_core.registry import FUSIONS, METHODS, WEIGHTINGS

# Options that mean something in one space only.
_OF_SPACES: Final = {"history": "tokens", "paths": "bytes"}


class EnsembleConfig(Checked):
    """Which models write together, and how.

    The options that only one method has stand beside the others: ``method="safe", block=3``. They
    are kept in `options`, and can be read as attributes.

    Example:
        >>> from gac_core import EnsembleConfig
        >>> config = EnsembleConfig(members=["org/model-a", "org/model-b"], method="safe", block=3)
        >>> config.block
        3
        >>> print(config.with_method("cascade", threshold=0.9).to_yaml())
        members:
        - model: org/model-a
        - model: org/model-b
        method: cascade
        threshold: 0.9
        <BLANKLINE>

    """

    members: tuple[MemberConfig, ...] = Field(min_length=1)
    method: str = Field(
        "every_step",
        description=f"{', '.join(METHODS.builtin)}; one of the presets {', '.join(PRESETS)}; or "
        "one that was registered",
    )
    fusion: str = Field(
        "auto",
        description="how distributions become one: mean, power, geometric, unite or core, or one "
        "that was registered; auto is power in space scored, else mean",
    )
    weighting: str = Field(
        "fixed",
        description="fixed; or weights by how well members predict the prompt, posterior: the text "
        "so far, or entropy: how sure they are of the next unit; or one that was registered",
    )
    temper: float = Field(
        1.0, ge=0.0, description="weighting: the exponent of that evidence; 0 is fixed"
    )
    space: Literal["auto", "tokens", "scored", "bytes"] = Field(
        "auto",
        description="in which members meet: tokens (of all), scored (the primary's tokens, which "
        "the others score by their bytes), or bytes; auto is tokens where all share one "
        "vocabulary, else scored where the method can",
    )
    paths: Annotated[int, Field(ge=1, le=64)] | Literal["top"] = Field(
        "top", description="space bytes: tokenisations of the text kept per member; top is 1"
    )
    options: SerializeAsAny[MethodOptions] = Field(
        default_factory=MethodOptions, description="the options of the method", exclude=True
    )
    draft: str | Annotated[int, Field(strict=True)] | None = Field(
        None,
        description="write ahead to save time, with the same text: ngrams (of prompt and answer), "
        "or the index of a member that drafts",
    )
    draft_length: int = Field(8, ge=1, le=64, description="draft: units at most")
    primary: int = Field(0, ge=0, description="index of the member asked first")
    history: Literal["reencode", "append"] = Field(
        "reencode", description="reencode, or append: how a member's ids take in others' units"
    )
    max_batch: int = Field(64, ge=1, description="requests that run at the same time")
    sampling: Literal["greedy", "model"] = Field(
        "greedy",
        description="what is not given with a request: greedy, or model: temperature, top_k, "
        "top_p, min_p and repetition_penalty as the primary's generation config has them",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_flat(cls, values: Any) -> Any:
        """Replace a preset by its options, and move the method's own options to its model."""
        if not isinstance(values, dict) or not isinstance(values.get("method", ""), str):
            return values
        return gathered(values, FIELDS, [n for n in dir(cls) if not n.startswith("_")])

    @classmethod
    def _option_names(cls, values: dict[str, Any]) -> list[str]:
        return [*FIELDS, *option_names(values)]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        count = len(self.members)
        if self.primary >= count:
            raise ValueError(
                f"primary is {self.primary}, but there are {count} members (0 to {count - 1})"
            )
        if not self.used:
            raise ValueError("all weights are 0; give at least one member a positive weight")
        if self.primary not in self.used:
            raise ValueError(
                f"the primary (member {self.primary}) has weight 0; choose another primary"
            )
        given = [m.name for m in self.members if m.name is not None]
        if len(set(given)) < len(given):
            raise ValueError(f"two members have the same name: {given}")
        self._check_draft()
        self._check_method()
        return self

    def _check_draft(self) -> None:
        if self.draft is None:
            if "draft_length" in self.changed:
                raise ValueError("draft_length needs draft")
        elif isinstance(self.draft, str):
            if self.draft != "ngrams":
                raise ValueError(f"draft is ngrams or the index of a member, not {self.draft!r}")
        elif self.draft not in self.used:
            raise ValueError(f"draft is {self.draft}, which is no member with a positive weight")

    def _check_method(self) -> None:
        spec = METHODS.get(self.method)
        for name in spec.ignores:
            if name in self.changed:
                raise ValueError(f"{name} means nothing to method {self.method}; leave it out")
        if self.space != "auto" and "space" not in spec.ignores and self.space not in spec.spaces:
            raise ValueError(
                f"method {self.method} runs in space {' or '.join(spec.spaces)}, not {self.space}"
            )
        for name, space in _OF_SPACES.items():
            if name in self.changed and self.space != space:
                raise ValueError(f"{name} needs space {space}; add it, or leave {name} out")
        if self.fusion not in ("auto", *FUSIONS.builtin):
            FUSIONS.get(self.fusion)
        if self.weighting == "fixed":
            if "temper" in self.changed:
                raise ValueError("temper needs weighting prompt, posterior or entropy")
        elif WEIGHTINGS.get(self.weighting).reads_text and not spec.scores_text:
            raise ValueError(
                f"method {self.method} takes weighting fixed, prompt or entropy, since its members "
                "do not read the text token by token"
            )

    @model_serializer(mode="wrap")
    def _flatten_options(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return values | flattened(self.options, info.mode, info.include, info.exclude)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of flat values: of those of methods any may be given here."""
        schema = handler.resolve_ref_schema(handler(_without_serialization(core_schema)))
        schema["properties"] = {
            **{n: s for n, s in schema.get("properties", {}).items() if n != "options"},
            **{name: {"description": about} for name, about in method_options().items()},
        }
        return schema

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, which are not checked; options of the method among them."""
        changed = dict(update or {})
        method = changed.get("method", self.method)
        model = METHODS.get(method).options
        own = {name: changed.pop(name) for name in model.model_fields if name in changed}
        if own or method != self.method:
            kept = dict(self.options) if method == self.method else {}
            changed.setdefault("options", model.model_construct(**{**kept, **own}))
        return super().model_copy(update=changed, deep=deep)

    if TYPE_CHECKING:  # type checkers can not know the options of registered methods

        def __init__(self, **values: Any) -> None: ...

    else:

        def __getattr__(self, name: str) -> Any:
            """An option of the method."""
            options = self.__dict__.get("options")
            if options is not None and name in type(options).model_fields:
                return getattr(options, name)
            return super().__getattr__(name)

    @property
    def changed(self) -> frozenset[str]:
        """The names of the options that differ from their defaults, with those of the method."""
        return (super().changed | self.options.changed) - {"members", "options"}

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each member as given; 1 if none was given."""
        return tuple(1.0 if m.weight is None else m.weight for m in self.members)

    @property
    def used(self) -> tuple[int, ...]:
        """The indices of the members that take part: those with a positive weight."""
        return tuple(index for index, weight in enumerate(self.weights) if weight > 0)

    @property
    def names(self) -> tuple[str, ...]:
        """Each member's name: as given, or else the end of its model's path, made unique."""
        return tuple(member_names(self.members))

    def active(self) -> Self:
        """The same ensemble without members of weight 0; the form that `Runtime` takes.

        Members have names, weights sum to 1, and `primary` and `draft` are indices of the members
        that are left.
        """
        total = sum(self.weights)
        members = tuple(
            self.members[i].model_copy(
                update={"name": self.names[i], "weight": self.weights[i] / total}
            )
            for i in self.used
        )
        draft = self.used.index(self.draft) if isinstance(self.draft, int) else self.draft
        primary = self.used.index(self.primary)
        return self.model_copy(update={"members": members, "primary": primary, "draft": draft})

    def with_method(self, method: str, **options: Any) -> Self:
        """The same ensemble with another method or preset.

        Options that mean nothing to the method are left out, and so are the previous method's own.

        Args:
            method: the name of a method or preset.
            options: of `EnsembleConfig` and the method, to set besides.

        Raises:
            ConfigError: an option is unknown, out of range, or missing.

        """
        preset = PRESETS.get(method, {})
        base = "every_step" if preset else method
        spec = METHODS.get(base)
        kept = {
            name: getattr(self, name)
            for name in self.changed - {"method", *preset, *spec.ignores}
            if name in type(self).model_fields or base == self.method
        }
        space = {**kept, **preset, **options}.get("space", "auto")
        if space not in (*spec.spaces, "auto"):
            kept.pop("space", None)
        for name, needed in _OF_SPACES.items():
            if needed != space:
                kept.pop(name, None)
        weighting = {**kept, **preset}.get("weighting", "fixed")
        if not spec.scores_text and WEIGHTINGS.get(weighting).reads_text:
            del kept["weighting"]
            weighting = "fixed"
        if "draft" not in kept:
            kept.pop("draft_length", None)
        if weighting == "fixed":
            kept.pop("temper", None)
        return self.of({"members": self.members, "method": method, **kept, **options})

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a YAML file; folders and files that it names are relative to its own folder.

        Raises:
            ConfigError: there is no such file, it is no YAML, or an option is wrong.

        """
        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"there is no file {path}; `gac config` writes one") from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} can not be read as YAML: {one_line(error)}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} must hold a mapping with members, not {values!r}")
        try:
            config = cls.of(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        members = tuple(
            m.model_copy(update={"model": str(path.parent / m.model)})
            if m.model.startswith(("./", "../")) or (path.parent / m.model).exists()
            else m
            for m in config.members
        )
        options = config.options
        named = {
            name: type(value)(path.parent / value)  # an absolute path stays as it is
            for name, field in type(options).model_fields.items()
            if any(mark in (RelativePath, RelativePath()) for mark in field.metadata)
            and isinstance(value := getattr(options, name), (str, Path))
        }
        options = options.model_copy(update=named)
        return config.model_copy(update={"members": members, "options": options})

    def to_yaml(self) -> str:
        """The options that differ from their defaults, as YAML."""
        return yaml.safe_dump(
            self.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
        )


def config_of(members: Sequence[MemberConfig], options: dict[str, Any]) -> EnsembleConfig:
    """The configuration of these members; options are those of `EnsembleConfig`, and `weights`.

    Raises:
        ConfigError: an option is unknown, out of range, or of the wrong length.

    """
    options = dict(options)
    weights = options.pop("weights", None)
    if weights is not None:
        if isinstance(weights, (str, bytes)) or not isinstance(weights, Sequence):
            raise ConfigError(f"weights must be a list of numbers, not {weights!r}")
        if len(weights) != len(members):
            raise ConfigError(
                f"there are {len(members)} models and {len(weights)} weights; give one per model"
            )
        members = [
            MemberConfig.of({**m.model_dump(), "weight": w})
            for m, w in zip(members, weights, strict=True)
        ]
    return EnsembleConfig.of({"members": tuple(members), **options})


FIELDS: Final = tuple(name for name in EnsembleConfig.model_fields if name != "options")


def _without_serialization(schema: Any) -> Any:
    """A core schema without functions that serialise, whose results have no schema."""
    if not isinstance(schema, dict):
        return schema
    return {k: _without_serialization(v) for k, v in schema.items() if k != "serialization"}
