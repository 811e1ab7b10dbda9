"""Test your own methods, rules, weightings and scorers: the laws, tiny models, scripted members.

A method, rule or weighting of your own is held to the laws in three lines::

    from gac_core.testing import check_method
    import my_method  # registers itself
    check_method("mine", alpha=0.3)

and so is a scorer, with `check_scorer`. `make_ensemble` builds ensembles of tiny random models,
`scripted` a member with given probabilities, `Speaker` one that says a given text, with thoughts
if its tokenizer is a `thinking_tokenizer`; `naively` answers without cache and batch. `FakeSGLang`,
`FakeVLLM` and `FakeLlamaCpp` are servers on loopback, for members that are servers.
"""

from gac_core.engine.naive import run_naively
from gac_core.testing.comparison import assert_nothing_held, assert_same, naively
from gac_core.testing.laws import check_method, check_scorer
from gac_core.testing.models import (
    FAMILIES,
    ScriptedModel,
    make_ensemble,
    pair,
    random_gate,
    scripted,
    tiny_model,
    tokenizer_of,
)
from gac_core.testing.servers import FakeLlamaCpp, FakeServer, FakeSGLang, FakeVLLM
from gac_core.testing.thinkers import THINKERS, Speaker, thinking_tokenizer

__all__ = [
    "FAMILIES",
    "THINKERS",
    "FakeLlamaCpp",
    "FakeSGLang",
    "FakeServer",
    "FakeVLLM",
    "ScriptedModel",
    "Speaker",
    "assert_nothing_held",
    "assert_same",
    "check_method",
    "check_scorer",
    "make_ensemble",
    "naively",
    "pair",
    "random_gate",
    "run_naively",
    "scripted",
    "thinking_tokenizer",
    "tiny_model",
    "tokenizer_of",
]
