"""Decoding methods, one generator a file.

A method is plain sequential code for one request: it yields `Ask` and is sent the logits, and it
yields `Step`. It touches no model, cache, thread or batch. Add one of your own with
`register_method`.
"""

from collections.abc import Callable, Generator
from typing import Final

from gac_core.config import PRESETS, EnsembleConfig, SamplingParams
from gac_core.decoding.request import Ask, Logits, Request
from gac_core.methods.cascade import cascade
from gac_core.methods.chared import chared
from gac_core.methods.co_llm import co_llm
from gac_core.methods.every_step import every_step
from gac_core.methods.safe import check as check_safe
from gac_core.methods.safe import safe
from gac_core.methods.twist import check as check_twist
from gac_core.methods.twist import twist
from gac_core.outputs import Step
from gac_core.registry import register

Decoder = Generator[Ask | Step, Logits, None]
Method = Callable[[Request], Decoder]

METHODS: Final[dict[str, Method]] = {
    "every_step": every_step,
    "cascade": cascade,
    "safe": safe,
    "chared": chared,
    "twist": twist,
    "co_llm": co_llm,
}
_CHECKS: Final[dict[str, Callable[[EnsembleConfig, SamplingParams], None]]] = {
    "safe": check_safe,
    "twist": check_twist,
}


def register_method(name: str, method: Method) -> None:
    """Make a method known by a name, for `method=...`.

    Raises:
        ConfigError: the name is taken.

    """
    register(METHODS, "method", name, method, PRESETS)


def check(config: EnsembleConfig, sampling: SamplingParams) -> None:
    """Refuse sampling that an ensemble's method can not follow.

    Raises:
        ConfigError: it can not.

    """
    if config.method in _CHECKS:
        _CHECKS[config.method](config, sampling)
