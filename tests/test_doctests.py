"""The examples in the docstrings print what they say."""

import doctest
import pkgutil
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from types import ModuleType

import pytest

import gac_core
import gac_integrations
from gac_core.registry import FUSIONS, METHODS, WEIGHTINGS

SCRIPTS = ("gac_core.pocket.train",)


def modules() -> Iterator[ModuleType]:
    for package in (gac_core, gac_integrations):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name not in SCRIPTS and not found.name.endswith(".__main__"):
                yield import_module(found.name)


def examples_of(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


EXAMPLES = {module.__name__: found for module in modules() if (found := examples_of(module))}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.usefixtures("own_loop")
def test_the_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runner = doctest.DocTestRunner()
    for test in EXAMPLES[name]:
        with ExitStack() as stack:
            for registry in (METHODS, FUSIONS, WEIGHTINGS):
                stack.enter_context(registry.scoped())
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out


def test_first_calls_have_examples() -> None:
    """What a newcomer calls first shows how."""
    shown = {test.name for found in EXAMPLES.values() for test in found}
    assert shown >= {
        "gac_core.config.EnsembleConfig",
        "gac_core.member_config.MemberConfig",
        "gac_core.sampling_params.SamplingParams",
        "gac_core.decisions.Deciding.choose",
        "gac_core.ensemble.Ensemble",
        "gac_core.ensemble.Ensemble.batch",
        "gac_core.ensemble.Ensemble.from_config",
        "gac_core.ensemble.Ensemble.generate",
        "gac_core.ensemble.Ensemble.stream",
        "gac_core.fusion.weighting.Weighting",
        "gac_core.grammar.grammar.Grammar",
        "gac_core.method_specs.MethodOptions",
        "gac_core.method_specs.MethodSpec",
        "gac_core.registry.register_fusion",
        "gac_core.registry.register_method",
        "gac_core.registry.register_weighting",
        "gac_core.testing.laws.check_method",
        "gac_core.testing.models.make_ensemble",
        "gac_core.testing.models.scripted",
    }
