"""Having every system predict the same texts."""

import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from gac_core.config import EnsembleConfig
from gac_core.errors import ConfigError
from gac_core.evaluation.running import (
    LoadedModels,
    Started,
    ensemble_of,
    load_used,
    results_of,
)
from gac_core.evaluation.systems import EvalOptions, OnSkip, System, leave_out, systems_of
from gac_core.evaluation.text_results import TextResult
from gac_core.evaluation.texts import ALONE, bits, pieces_of, predict, window_for

# Pieces of a text that are predicted at the same time, for the memory of caches and logits.
_PIECES_AT_ONCE: Final = 16
_ALONE_AT_ONCE: Final = 4


def evaluate_texts(
    config: EnsembleConfig,
    options: EvalOptions,
    *,
    loaded: LoadedModels | None = None,
    on_system: Started = lambda name, pieces: None,  # noqa: ARG005
    on_piece: Callable[[], None] = lambda: None,
    on_skip: OnSkip = leave_out,
) -> Iterator[TextResult]:
    """Have every system predict the same texts; one result after another.

    What is measured is told in `gac_core.evaluation.texts`. Controls answer questions, so they are
    no part of it.

    Args:
        config: the ensemble; its models are loaded once.
        options: whose `texts` are predicted, and by whom.
        loaded: its models, if they are loaded already.
        on_system: called before each system, with its name and the number of pieces.
        on_piece: called after each piece.
        on_skip: with `everything`, called with each method that fails with this ensemble or that no
            text can be forced on, and the error; the others go on.

    Raises:
        ConfigError: fewer than two members have a weight, or there is no text.
        MethodError: without `everything`, no text can be forced on the configured method.

    """
    if not options.texts:
        raise ConfigError("there is no text to predict")
    systems = [s for s in systems_of(config, options, on_skip) if s.kind != "control"]
    loaded = load_used(config) if loaded is None else loaded
    reading = _Reading(config, options, loaded, on_system, on_piece)
    yield from results_of(reading.result, systems, options, on_skip)


class _Reading:
    """The loaded models, and the texts that they predict."""

    def __init__(
        self,
        config: EnsembleConfig,
        options: EvalOptions,
        loaded: LoadedModels,
        on_system: Started,
        on_piece: Callable[[], None],
    ) -> None:
        self._loaded = loaded
        self._on_system = on_system
        self._on_piece = on_piece
        with ensemble_of(config.with_method("every_step"), loaded) as ensemble:
            window = window_for(ensemble.context_size)
        self._pieces = {text.name: pieces_of(text.data, window) for text in options.texts}

    def result(self, system: System) -> TextResult:
        """How well one system predicts them."""
        self._on_system(system.name, sum(map(len, self._pieces.values())))
        result = TextResult(system.name, system.kind)
        is_alone = system.kind == "member"
        most = min(system.config.max_batch, _ALONE_AT_ONCE if is_alone else _PIECES_AT_ONCE)
        config = system.config.model_copy(update={"max_batch": most})
        with ensemble_of(config, self._loaded, ALONE if is_alone else None) as ensemble:
            began = time.perf_counter()
            for name, pieces in self._pieces.items():
                found = []
                for steps in predict(ensemble, pieces):
                    found.append(bits(steps))
                    result.count(name, steps)
                    self._on_piece()
                result.bits[name] = np.array(found)
                result.sizes[name] = np.array([float(len(p.text.encode())) for p in pieces])
            result.seconds = time.perf_counter() - began
        return result
