"""Asking every system the same questions."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property

import numpy as np

from gac_core.config import EnsembleConfig
from gac_core.ensemble import Ensemble
from gac_core.errors import ConfigError
from gac_core.evaluation.controls import Answers, greedy, rerank, routing, self_consistency
from gac_core.evaluation.questions import Item
from gac_core.evaluation.results import Result
from gac_core.evaluation.running import (
    LoadedModels,
    Started,
    ensemble_of,
    load_used,
    results_of,
)
from gac_core.evaluation.systems import (
    EvalOptions,
    OnSkip,
    System,
    leave_out,
    members_alone,
    systems_of,
)


def evaluate(
    config: EnsembleConfig,
    options: EvalOptions,
    *,
    loaded: LoadedModels | None = None,
    on_system: Started = lambda name, questions: None,  # noqa: ARG005
    on_answer: Callable[[], None] = lambda: None,
    on_skip: OnSkip = leave_out,
) -> Iterator[Result]:
    """Ask every system the same items; one result after another.

    Controls that choose a member choose it by its answers to other questions (another seed, 100 a
    task at most; the same ones if a task has no others), which count neither as forwards nor as
    time.

    Args:
        config: the ensemble; its models are loaded once.
        options: what is asked.
        loaded: its models, if they are loaded already.
        on_system: called before each system, with its name and the number of its questions.
        on_answer: called after each answer.
        on_skip: with `everything`, called with each method or control that fails with this
            ensemble, and the error; the others go on.

    Raises:
        ConfigError: fewer than two members have a weight, or nothing is asked.

    """
    if not any(options.questions().values()):
        raise ConfigError("there is no question to ask; give tasks, or a file of questions")
    systems = list(systems_of(config, options, on_skip))
    loaded = load_used(config) if loaded is None else loaded
    evaluation = _Evaluation(config, options, loaded, on_system, on_answer)
    yield from results_of(evaluation.result, systems, options, on_skip)


class _Evaluation:
    """The loaded models and their questions."""

    def __init__(
        self,
        config: EnsembleConfig,
        options: EvalOptions,
        loaded: LoadedModels,
        on_system: Started,
        on_answer: Callable[[], None],
    ) -> None:
        self._options = options
        self._asked = options.questions()
        self._on_system = on_system
        self._on_answer = on_answer
        self._members = members_alone(config)
        self._loaded = loaded

    def result(self, system: System) -> Result:
        """How one system does."""
        chooses = system.name in ("self_consistency", "routing") and system.kind == "control"
        return self._ask(system, self._asked, self._skills if chooses else [])

    @cached_property
    def _skills(self) -> list[Result]:
        """How the members do on other questions."""
        asked = self._options.development.questions()
        return [self._ask(member, asked) for member in self._members]

    def _ask(
        self, system: System, asked: Mapping[str, Sequence[Item]], skills: Sequence[Result] = ()
    ) -> Result:
        self._on_system(system.name, sum(map(len, asked.values())))
        result = Result(system.name, system.kind)
        with ExitStack() as stack:
            is_control = system.kind == "control"
            configs = [*(m.config for m in self._members if is_control), system.config]
            ensembles = [stack.enter_context(ensemble_of(c, self._loaded)) for c in configs]
            answers = _answers(system.name, ensembles, skills) if is_control else greedy(*ensembles)
            began = time.perf_counter()
            for task, items in asked.items():
                right = []
                for item, output in zip(items, answers(task, items), strict=True):
                    is_cut = output.finish_reason == "length"
                    right.append(item.is_correct(output.text, is_cut=is_cut))
                    result.count(output)
                    self._on_answer()
                result.right[task] = np.array(right)
            result.seconds = time.perf_counter() - began
            queries: Counter[str] = Counter()
            for member in (member for ensemble in ensembles for member in ensemble.members):
                queries[member.name] += member.scorer.stats.queries
        result.queries = dict(queries)
        return result


def _answers(control: str, ensembles: Sequence[Ensemble], skills: Sequence[Result]) -> Answers:
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
        best = int(np.argmax([skill.average for skill in skills]))
        return self_consistency(alone[best], samples=len(alone))
    best_at = {
        task: int(np.argmax([skill.right[task].mean() for skill in skills]))
        for task in skills[0].right
    }
    return routing({task: alone[m] for task, m in best_at.items()})
