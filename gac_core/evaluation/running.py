"""What all evaluations share: models that are loaded once, and systems that may fail."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from gac_core.config import EnsembleConfig
from gac_core.ensemble import Ensemble
from gac_core.errors import GacError
from gac_core.evaluation.systems import EvalOptions, OnSkip, System
from gac_core.members.loading import Loaded, load_members
from gac_core.method_specs import MethodSpec

R = TypeVar("R")

Started = Callable[[str, int], None]
LoadedModels = Mapping[int, Loaded]


def load_used(config: EnsembleConfig, *, progress: bool = False) -> dict[int, Loaded]:
    """The models of the members that have a weight, by index, for several evaluations.

    Args:
        config: the ensemble.
        progress: show progress bars.

    Raises:
        LoadError: a model can not be loaded.

    """
    loaded = load_members(config.active().members, progress=progress)
    return dict(zip(config.used, loaded, strict=True))


def results_of(
    measure: Callable[[System], R],
    systems: Sequence[System],
    options: EvalOptions,
    on_skip: OnSkip,
) -> Iterator[R]:
    """The result of each system; with `everything`, those that fail are left out."""
    for system in systems:
        try:
            yield measure(system)
        except GacError as error:
            if system.kind == "member" or not options.everything:
                raise
            on_skip(system.name, error)


def ensemble_of(
    config: EnsembleConfig, loaded: LoadedModels, spec: MethodSpec | None = None
) -> Ensemble:
    """An ensemble of models that are loaded.

    Args:
        config: its members and options.
        loaded: the models, by index.
        spec: of the method, if it is not the registered one.

    """
    own = [loaded[index] for index in config.used]
    return Ensemble(config, partial(list, own), spec=spec)
