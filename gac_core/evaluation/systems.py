"""What is compared: each member alone, methods and controls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gac_core.config import EnsembleConfig
from gac_core.errors import ConfigError, GacError
from gac_core.evaluation.questions import Item, TaskSet
from gac_core.evaluation.results import SystemKind
from gac_core.evaluation.text_files import Text
from gac_core.method_specs import PRESETS
from gac_core.registry import METHODS

THRESHOLDS: Final = (0.5, 0.9, 0.95, 0.99)
CONTROLS: Final = ("self_consistency", "routing", "rerank")

_DEVELOPMENT_ITEMS: Final = 100  # per task, at most


def methods_and_controls(also: Sequence[str] = ()) -> tuple[str, ...]:
    """The systems beside the members, in order, when everything is measured.

    Args:
        also: methods that may be an installed package's.

    """
    for name in also:
        with suppress(ConfigError):
            METHODS.get(name)
    first, *others = METHODS.names
    return first, *PRESETS, *others, *CONTROLS


@dataclass(frozen=True)
class EvalOptions:
    """What is asked, and of whom beside the members.

    Attributes:
        task_set: the tasks there are; none by default.
        items: questions per task.
        seed: of the questions.
        texts: those over which bits per byte are measured.
        thresholds: of the cascades; not used with `everything`.
        tasks: names of tasks; the default ones of the set if empty.
        configured: the configured method and cascades only, without `everything`.
        everything: every method, a cascade at the configured threshold, and the controls, instead
            of every step, GaC as published and some cascades.
        only: those of `methods_and_controls` that are wanted; all if empty.
        defaults: options by method, for those that the ensemble is not configured with.

    Raises:
        ConfigError: an unknown task, method or control, or no items.

    """

    task_set: TaskSet = field(default_factory=lambda: TaskSet({}))
    items: int = 300
    seed: int = 0
    texts: tuple[Text, ...] = ()
    thresholds: tuple[float, ...] = THRESHOLDS
    tasks: tuple[str, ...] = ()
    configured: bool = False
    everything: bool = False
    only: tuple[str, ...] = ()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_known("task", self.tasks, self.task_set.names)
        _check_known("method or control", self.only, methods_and_controls(self.only))
        if self.items < 1:
            raise ConfigError(f"items must be 1 or more, not {self.items}")
        if wrong := [t for t in self.thresholds if not t >= 0]:
            raise ConfigError(f"a threshold must be 0 or more, not {wrong[0]}")

    @property
    def development(self) -> "EvalOptions":
        """Other questions, to choose members by."""
        return replace(self, items=min(self.items, _DEVELOPMENT_ITEMS), seed=self.seed + 1)

    def questions(self) -> dict[str, list[Item]]:
        """The items of each task."""
        return self.task_set.items(self.tasks, self.items, self.seed)


def _check_known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"there is no {what} {unknown[0]!r}; choose from {', '.join(known)}")


@dataclass(frozen=True)
class System:
    """What is evaluated: a name and its configuration (a control's is that of all members)."""

    name: str
    kind: SystemKind
    config: EnsembleConfig


OnSkip = Callable[[str, GacError], None]


def leave_out(name: str, error: GacError) -> None:
    """Say nothing about a system that is left out."""


def systems_of(
    config: EnsembleConfig, options: EvalOptions, on_skip: OnSkip = leave_out
) -> Iterator[System]:
    """Each member alone, then the methods, then the controls.

    Args:
        config: the ensemble; a method gets those of its options that mean something to it.
        options: which methods and controls.
        on_skip: called with each method that this ensemble can not have, and the reason.

    Raises:
        ConfigError: fewer than two members have a weight.

    """
    yield from members_alone(config)
    if not options.everything:
        if not options.configured:
            yield _system(config, "every_step", options)
            yield _system(config, "gac", options)
        for threshold in options.thresholds:
            cascade = config.with_method("cascade", threshold=threshold)
            yield System(f"cascade_{threshold:g}", "method", cascade)
        if options.configured or config.method not in METHODS.builtin:  # an installed package's
            yield System(config.method, "method", config)
        return
    for name in methods_and_controls(options.only):
        if not options.only or name in options.only:
            try:
                system = _system(config, name, options)
            except ConfigError as error:
                on_skip(name, error)
            else:
                yield system


def members_alone(config: EnsembleConfig) -> list[System]:
    """Each member that has a weight, alone.

    Raises:
        ConfigError: there are fewer than two.

    """
    if len(config.used) < 2:
        raise ConfigError("to compare members with their ensemble takes two members or more")
    systems = []
    for index in config.used:
        members = tuple(
            m.model_copy(update={"weight": float(i == index)}) for i, m in enumerate(config.members)
        )
        alone = EnsembleConfig(members=members, primary=index, max_batch=config.max_batch)
        systems.append(System(config.names[index], "member", alone))
    return systems


def _system(config: EnsembleConfig, name: str, options: EvalOptions) -> System:
    match name:
        case _ if name in CONTROLS:
            return System(name, "control", config.with_method("every_step"))
        case _:
            given = config.changed if config.method == name else ()
            own = options.defaults.get(name, {})
            config = config.with_method(name, **{k: v for k, v in own.items() if k not in given})
    return System(name, "method", config)
