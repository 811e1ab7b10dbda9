"""An ensemble is handed to other processes as its configuration, or it says what to hand on."""

import copy
import multiprocessing
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gac_core import ConfigError, EngineClosedError, Ensemble, EnsembleConfig, pocket
from tests.fakes import make

CHAT = [{"role": "user", "content": "What is 77 - 49?"}]


def test_it_is_its_configuration(saved: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "ensemble.yaml"
    weights = [0.7, 0.3]
    file.write_text(f"members: [{{model: {saved[0]}}}, {{model: {saved[1]}}}]\nprimary: 1\n")
    makers: list[Any] = [
        Ensemble.pocket,
        partial(Ensemble.pocket, method="co_llm", lazy=True),
        partial(Ensemble.from_config, {"members": pocket.members(), "method": "cascade"}),
        partial(Ensemble.from_config, str(file), progress=False),
        partial(Ensemble.from_pretrained, [str(p) for p in saved], weights=weights, progress=False),
        partial(
            Ensemble.from_pretrained,
            [str(p) for p in saved],
            weights=[0.0, 1.0],
            progress=False,
            primary=1,
        ),
    ]
    for make_one in makers:
        with make_one() as ensemble, pickle.loads(pickle.dumps(ensemble)) as other:
            assert other is not ensemble
            assert other.config == ensemble.config
            answers = [e.generate(CHAT, max_new_tokens=12) for e in (ensemble, other)]
            assert answers[0].text == answers[1].text
            assert other.members[0].scorer is not ensemble.members[0].scorer


@pytest.mark.slow
def test_a_spawned_process_answers_with_it() -> None:
    context = multiprocessing.get_context("spawn")
    with Ensemble.pocket() as ensemble, context.Pool(1) as pool:
        assert pool.apply(ensemble.generate, (CHAT,)).text == "77 - 49 = 28"


def test_what_is_in_memory_alone_is_refused_with_the_cure() -> None:
    with make(["byte_level", "legacy"]) as ensemble:
        with pytest.raises(ConfigError, match=r"save them to folders.*from_pretrained"):
            pickle.dumps(ensemble)
        assert copy.deepcopy(ensemble) is ensemble
        config = pickle.loads(pickle.dumps(ensemble.config))
        assert isinstance(config, EnsembleConfig)


def test_a_closed_one_is_refused() -> None:
    ensemble = Ensemble.pocket(lazy=True)
    ensemble.close()
    with pytest.raises(EngineClosedError, match="load it again"):
        pickle.dumps(ensemble)
