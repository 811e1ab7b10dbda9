"""Members alone, methods and controls on the same questions, side by side.

The questions are the pocket tasks: program-generated, held out from the pocket members' training,
each with one right answer. Any ensemble can be asked them.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Final

import numpy as np

from gac_core import methods
from gac_core.config import METHODS, PRESETS, EnsembleConfig
from gac_core.ensemble import Ensemble
from gac_core.errors import ConfigError, GacError
from gac_core.evaluation.controls import Answers, greedy, rerank, routing, self_consistency
from gac_core.evaluation.results import Kind, Row
from gac_core.members.loading import member_names
from gac_core.pocket import tasks
from gac_core.pocket.tasks import Item
from gac_core.registry import find
from gac_core.runtime import load_used

THRESHOLDS: Final = (0.5, 0.9, 0.95, 0.99)
CONTROLS: Final = ("self_consistency", "routing", "rerank")

_APPEND: Final = "every_step_append"
_AFTER_PRESETS: Final = ("twist", "co_llm")  # their own kinds: beam searches, a trained gate
_DEVELOPMENT_ITEMS: Final = 100  # per task, at most


def methods_and_controls(also: Sequence[str] = ()) -> tuple[str, ...]:
    """The rows beside the members', in order, when everything is measured.

    Args:
        also: methods that may be an installed package's.

    """
    names = [*(n for n in METHODS if n not in _AFTER_PRESETS), *PRESETS, *_AFTER_PRESETS]
    for name in also:
        with suppress(ConfigError):
            find(methods.METHODS, "method", name)
    first, *others = [n for n in names if n in PRESETS or n in methods.METHODS]
    own = [n for n in methods.METHODS if n not in names and not n.startswith("_")]
    return first, _APPEND, *others, *own, *CONTROLS


@dataclass(frozen=True)
class Settings:
    """What is asked, and of whom beside the members.

    Attributes:
        items: questions per task.
        seed: of the questions.
        thresholds: of the cascades; not used with `everything`.
        tasks: of `JUDGED` and `LONG` in `gac_core.pocket.tasks`; all of `JUDGED` if empty.
        everything: every method, a cascade at the configured threshold, and the controls, instead
            of every step and some cascades.
        only: the rows of `methods_and_controls` that are wanted; all if empty.
        gate: for method co_llm, if the ensemble is not configured with one.

    Raises:
        ConfigError: an unknown task or row, or no items.

    """

    items: int = 300
    seed: int = 0
    thresholds: tuple[float, ...] = THRESHOLDS
    tasks: tuple[str, ...] = ()
    everything: bool = False
    only: tuple[str, ...] = ()
    gate: str | None = None

    def __post_init__(self) -> None:
        _check_known("task", self.tasks, (*tasks.JUDGED, *tasks.LONG))
        _check_known("method or control", self.only, methods_and_controls(self.only))
        if self.items < 1:
            raise ConfigError(f"items must be 1 or more, not {self.items}")
        if wrong := [t for t in self.thresholds if not t >= 0]:
            raise ConfigError(f"a threshold must be 0 or more, not {wrong[0]}")

    @property
    def development(self) -> "Settings":
        """Other questions, to choose members by."""
        return replace(self, items=min(self.items, _DEVELOPMENT_ITEMS), seed=self.seed + 1)

    def questions(self) -> dict[str, list[Item]]:
        """The items of each task."""
        names = self.tasks or tuple(tasks.JUDGED)
        return {name: list(tasks.heldout(name, self.items, self.seed)) for name in names}


def _check_known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"there is no {what} {unknown[0]!r}; choose from {', '.join(known)}")


@dataclass(frozen=True)
class System:
    """What is evaluated: a name and the configuration behind it (of a control: of all members)."""

    name: str
    kind: Kind
    config: EnsembleConfig


OnSkip = Callable[[str, GacError], None]


def _in_silence(name: str, error: GacError) -> None:
    """Leave it out."""


def systems_of(
    config: EnsembleConfig, settings: Settings, on_skip: OnSkip = _in_silence
) -> Iterator[System]:
    """Each member alone, then the methods, then the controls.

    Args:
        config: the ensemble; a method gets those of its options that mean something to it.
        settings: which methods and controls.
        on_skip: told of each method that can not be had with this ensemble, and why.

    Raises:
        ConfigError: there is but one member with a weight.

    """
    yield from _members_of(config)
    if not settings.everything:
        yield _system(config, "every_step", settings)
        yield _system(config, _APPEND, settings)
        for threshold in settings.thresholds:
            cascade = config.with_method("cascade", threshold=threshold)
            yield System(f"cascade_{threshold:g}", "method", cascade)
        if config.method not in METHODS:  # somebody's own
            yield System(config.method, "method", config)
        return
    for name in methods_and_controls(settings.only):
        if not settings.only or name in settings.only:
            try:
                system = _system(config, name, settings)
            except ConfigError as error:
                on_skip(name, error)
            else:
                yield system


def _members_of(config: EnsembleConfig) -> list[System]:
    used = _used(config)
    if len(used) < 2:
        raise ConfigError("to compare members with their ensemble takes two members or more")
    names, systems = member_names(config.members), []
    for index in used:
        members = tuple(
            m.model_copy(update={"weight": float(i == index)}) for i, m in enumerate(config.members)
        )
        alone = EnsembleConfig(members=members, primary=index, max_batch=config.max_batch)
        systems.append(System(names[index], "member", alone))
    return systems


def _system(config: EnsembleConfig, name: str, settings: Settings) -> System:
    match name:
        case "every_step":
            config = config.with_method("every_step", history="reencode")
        case "every_step_append":
            config = config.with_method("every_step", history="append")
        case "co_llm" if config.gate is None and settings.gate is not None:
            config = config.with_method("co_llm", gate=settings.gate)
        case _ if name in CONTROLS:
            return System(name, "control", config.with_method("every_step"))
        case _:
            config = config.with_method(name)
    return System(name, "method", config)


def evaluate(
    config: EnsembleConfig,
    settings: Settings,
    *,
    on_system: Callable[[str, int], None] = lambda name, questions: None,  # noqa: ARG005
    on_answer: Callable[[], None] = lambda: None,
    on_skip: OnSkip = _in_silence,
) -> Iterator[Row]:
    """Ask every system the same held-out items; one row after another.

    Controls that choose a member choose it by its answers to other questions (another seed, 100 a
    task at most), which count neither as forwards nor as time.

    Args:
        config: the ensemble; its models are loaded once.
        settings: what is asked.
        on_system: told before each system: its name and how many questions it is asked.
        on_answer: told of each answer.
        on_skip: with `everything`, told of each method or control that fails with this ensemble,
            and why; the others go on.

    Raises:
        ConfigError: fewer than two members have a weight.

    """
    systems = list(systems_of(config, settings, on_skip))
    evaluation = _Evaluation(config, settings, on_system, on_answer)
    for system in systems:
        try:
            yield evaluation.row(system)
        except GacError as error:
            if system.kind == "member" or not settings.everything:
                raise
            on_skip(system.name, error)


def _used(config: EnsembleConfig) -> list[int]:
    return [index for index, weight in enumerate(config.weights) if weight > 0]


class _Evaluation:
    """The loaded models and what they are asked."""

    def __init__(
        self,
        config: EnsembleConfig,
        settings: Settings,
        on_system: Callable[[str, int], None],
        on_answer: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._asked = settings.questions()
        self._on_system = on_system
        self._on_answer = on_answer
        self._members = _members_of(config)
        self._loaded = dict(zip(_used(config), load_used(config, progress=False), strict=True))

    def row(self, system: System) -> Row:
        """How one system does."""
        chooses = system.name in ("self_consistency", "routing") and system.kind == "control"
        return self._row(system, self._asked, self._skills if chooses else [])

    @cached_property
    def _skills(self) -> list[Row]:
        """How the members do on other questions."""
        asked = self._settings.development.questions()
        return [self._row(member, asked) for member in self._members]

    def _row(
        self, system: System, asked: Mapping[str, Sequence[Item]], skills: Sequence[Row] = ()
    ) -> Row:
        self._on_system(system.name, sum(map(len, asked.values())))
        row = Row(system.name, system.kind)
        with ExitStack() as stack:
            is_control = system.kind == "control"
            configs = [*(m.config for m in self._members if is_control), system.config]
            ensembles = [stack.enter_context(self._ensemble(config)) for config in configs]
            answers = _answers(system.name, ensembles, skills) if is_control else greedy(*ensembles)
            began = time.perf_counter()
            for task, items in asked.items():
                right = []
                for item, output in zip(items, answers(task, items), strict=True):
                    right.append(item.is_correct(output.text))
                    row.count(output)
                    self._on_answer()
                row.right[task] = np.array(right)
            row.seconds = time.perf_counter() - began
            queries: Counter[str] = Counter()
            for member in (member for ensemble in ensembles for member in ensemble.members):
                queries[member.name] += member.scorer.stats.queries
        row.queries = dict(queries)
        return row

    def _ensemble(self, config: EnsembleConfig) -> Ensemble:
        own = [self._loaded[index] for index in _used(config)]
        return Ensemble(config, partial(list, own))


def _answers(control: str, ensembles: Sequence[Ensemble], skills: Sequence[Row]) -> Answers:
    """How a control answers.

    Args:
        control: its name.
        ensembles: each member alone, then all of them together.
        skills: how the members did on other questions.

    """
    *alone, together = ensembles
    if control == "rerank":
        return rerank(alone, together)
    if control == "self_consistency":
        best = int(np.argmax([row.average for row in skills]))
        return self_consistency(alone[best], samples=len(alone))
    best_at = {
        task: int(np.argmax([row.right[task].mean() for row in skills])) for task in skills[0].right
    }
    return routing({task: alone[m] for task, m in best_at.items()})
