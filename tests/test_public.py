import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gac_core
from gac_core import errors

ROOT = Path(__file__).parents[1]


def test_the_public_names() -> None:
    assert gac_core.__all__ == sorted(gac_core.__all__)
    assert set(gac_core.__all__) == {
        *("AnswerCutError", "AsyncStream", "CannotSpellError", "Choice", "ConfigError"),
        "ContextOverflowError",
        *("EngineClosedError", "Ensemble", "EnsembleConfig", "ForkedError"),
        *("GacError", "Grammar"),
        *("GrammarError", "LoadError"),
        *("MemberChoice", "MemberConfig", "MemberError", "MemberUsage", "MemberView"),
        *("MethodError", "ModelChangedError", "NonFiniteLogitsError", "UnreachableError"),
        *("Outcome", "Output", "PromptError", "RewritesTextError", "SamplingParams", "Step"),
        *("Stream", "Usage", "VocabularyError"),
        *("Ask", "Fused", "Query", "Request", "Scored", "Scorer", "Views", "Weighting"),
        *("BYTES", "RelativePath", "ScorerStats", "Space"),
        *("MethodOptions", "MethodSpec"),
        "load_members",
        *("register_fusion", "register_method", "register_weighting"),
    }
    assert all(hasattr(gac_core, name) for name in gac_core.__all__)


def test_every_error_is_public_and_in_the_drawn_tree() -> None:
    for name, value in vars(errors).items():
        if isinstance(value, type):
            assert name in gac_core.__all__
            assert name in (errors.__doc__ or "")
            assert issubclass(value, gac_core.GacError)


def test_the_version_is_said_once_more_and_rightly() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == gac_core.__version__


@pytest.mark.slow
def test_importing_changes_nothing_of_the_callers_process() -> None:
    code = (
        "import torch; before = (torch.get_num_threads(), torch.get_default_dtype());"
        "import gac_core;"
        "assert before == (torch.get_num_threads(), torch.get_default_dtype())"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
