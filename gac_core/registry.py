"""Methods, fusion rules and weightings by name: built in, registered, or an installed package's.

Names of built-in ones are known without importing them. A package brings its own as entry points of
the groups `gac.method`, `gac.fusion` and `gac.weighting`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final, Generic, TypeVar

from gac_core.errors import ConfigError
from gac_core.method_specs import PRESETS, MethodSpec

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        kind: what they are, for messages and the entry points' group.
        builtin: where each of ours is, as "module:attribute".
        taken: names that mean something else.

    """

    def __init__(self, kind: str, builtin: Mapping[str, str], taken: tuple[str, ...] = ()) -> None:
        self._kind = kind
        self._builtin = dict(builtin)
        self._taken = taken
        self._known: dict[str, T] = {}

    @property
    def builtin(self) -> tuple[str, ...]:
        """The names of ours."""
        return tuple(self._builtin)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of ours and of those that were registered so far."""
        return tuple(dict.fromkeys([*self._builtin, *self._known]))

    def add(self, name: str, value: T) -> None:
        """Make a thing known by a name.

        Raises:
            ConfigError: the name is taken.

        """
        is_taken = name in self._taken or name in self._builtin
        if not name or is_taken or self._known.get(name, value) != value:
            raise ConfigError(f"there is a {self._kind} {name!r} already; choose another name")
        self._known[name] = value

    def get(self, name: str) -> T:
        """The thing of a name, loaded if it was not yet.

        Raises:
            ConfigError: there is none of that name, or it can not be loaded.

        """
        if name not in self._known:
            if name in self._builtin:
                module, _, attribute = self._builtin[name].partition(":")
                self._known[name] = getattr(import_module(module), attribute)
            else:
                self._load(name)
        return self._known[name]

    def _load(self, name: str) -> None:
        """Register what an installed package brings under this name."""
        register = _REGISTER[self._kind]
        for point in entry_points(group=f"gac.{self._kind}", name=name):
            try:
                value = point.load()
            except (ImportError, AttributeError) as error:
                raise ConfigError(
                    f"{self._kind} {name!r} can not be loaded from {point.value}: {error}"
                ) from error
            register(name, value)
        if name not in self._known:
            raise ConfigError(
                f"there is no {self._kind} {name!r}; there are "
                f"{', '.join((*self.names, *self._taken))}, and what is registered or comes as an "
                f"entry point of the group gac.{self._kind}"
            )

    @contextmanager
    def scoped(self) -> Iterator[None]:
        """What is registered within is forgotten afterwards."""
        before = dict(self._known)
        try:
            yield
        finally:
            self._known = before


METHODS: Final = Registry[MethodSpec](
    "method",
    {
        "every_step": "gac_core.methods.every_step:SPEC",
        "cascade": "gac_core.methods.cascade:SPEC",
        "safe": "gac_core.methods.safe:SPEC",
        "chared": "gac_core.methods.chared:SPEC",
        "twist": "gac_core.methods.twist:SPEC",
        "co_llm": "gac_core.methods.co_llm:SPEC",
    },
    tuple(PRESETS),
)
FUSIONS: Final = Registry[Callable[..., Any]](  # of `gac_core.fusion.rules.Rule`
    "fusion",
    {
        "mean": "gac_core.fusion.rules:mean",
        "geometric": "gac_core.fusion.rules:geometric",
        "unite": "gac_core.fusion.rules:unite",
        "core": "gac_core.fusion.rules:core",
    },
)
WEIGHTINGS: Final = Registry[Any](  # subclasses of `gac_core.fusion.weighting.Weighting`
    "weighting",
    {
        "fixed": "gac_core.fusion.weighting:Fixed",
        "prompt": "gac_core.fusion.weighting:ByPrompt",
        "posterior": "gac_core.fusion.weighting:Posterior",
        "entropy": "gac_core.fusion.weighting:ByEntropy",
    },
)


def register_method(name: str, method: Callable[..., Any] | MethodSpec, **about: Any) -> None:
    """Make a decoding method known by a name, for `method=...`.

    Args:
        name: what it is called.
        method: a generator function of a `Request`, or its whole spec.
        about: further fields of its `MethodSpec`, such as `options`, `space` or `ignores`.

    Raises:
        ConfigError: the name is taken, or it is no function.

    Example:
        >>> from gac_core import register_method
        >>> def alone(request):
        ...     while not request.finished:
        ...         own = request.read((yield request.ask(request.primary)))
        ...         yield request.emit_alone(own[request.primary])
        >>> register_method("alone", alone)

    """
    if not isinstance(method, MethodSpec):
        _check_callable("method", name, method)
        method = MethodSpec(name, method, **about)
    METHODS.add(name, method)


def register_fusion(name: str, rule: Callable[..., Any]) -> None:
    """Make a fusion rule known by a name, for `fusion=...`.

    Args:
        name: what it is called.
        rule: from `Views` to (rows,) probabilities of mass 1.

    Raises:
        ConfigError: the name is taken, or it is no function.

    """
    _check_callable("fusion", name, rule)
    FUSIONS.add(name, rule)


def register_weighting(name: str, weighting: type[Any]) -> None:
    """Make a weighting known by a name, for `weighting=...`.

    Args:
        name: what it is called.
        weighting: a subclass of `Weighting`; each request gets an object of it.

    Raises:
        ConfigError: the name is taken, or it is no class.

    """
    _check_callable("weighting", name, weighting)
    WEIGHTINGS.add(name, weighting)


def _check_callable(kind: str, name: str, value: object) -> None:
    if not callable(value):
        raise ConfigError(f"{kind} {name} must be a function, not {value!r:.80}")


_REGISTER: Final[dict[str, Callable[[str, Any], None]]] = {
    "method": register_method,
    "fusion": register_fusion,
    "weighting": register_weighting,
}
