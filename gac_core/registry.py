"""Methods, fusion rules and weightings by name: built in, registered, or from installed packages.

The names of built-in ones are known without importing them. A package offers its own as entry
points of the groups `gac.method`, `gac.fusion` and `gac.weighting`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final, Generic, TypeVar

from gac_core.errors import ConfigError
from gac_core.method_specs import PRESETS, MethodSpec

T = TypeVar("T")


class Registry(Generic[T]):
    """Methods, rules or weightings by name.

    Args:
        kind: "method", "fusion" or "weighting", for messages and the entry points' group.
        builtin: the names of the built-in ones, and where each is, as "module:attribute".
        taken: names that mean something else.

    """

    def __init__(self, kind: str, builtin: Mapping[str, str], taken: tuple[str, ...] = ()) -> None:
        self._kind = kind
        self._builtin = dict(builtin)
        self._taken = taken
        self._known: dict[str, T] = {}

    @property
    def builtin(self) -> tuple[str, ...]:
        """The names of the built-in ones."""
        return tuple(self._builtin)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the built-in ones and of those that were registered so far."""
        return tuple(dict.fromkeys([*self._builtin, *self._known]))

    def add(self, name: str, value: T) -> None:
        """Register a value by a name.

        Raises:
            ConfigError: the name is taken.

        """
        is_taken = name in self._taken or name in self._builtin
        if not name or is_taken or self._known.get(name, value) != value:
            raise ConfigError(f"there is a {self._kind} {name!r} already; choose another name")
        self._known[name] = value

    def get(self, name: str) -> T:
        """The value of a name, imported now if it was not yet.

        Raises:
            ConfigError: there is no such name, or its value can not be imported.

        """
        if name not in self._known:
            if name in self._builtin:
                module, _, attribute = self._builtin[name].partition(":")
                self._known[name] = getattr(import_module(module), attribute)
            else:
                self._load(name)
        return self._known[name]

    def _load(self, name: str) -> None:
        """Register the entry point of this name that an installed package has."""
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
        """A context after which names that were registered in it are forgotten."""
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
        "twist": "gac_core.methods.twist:SPEC",
        "co_llm": "gac_core.methods.co_llm:SPEC",
    },
    tuple(PRESETS),
)
FUSIONS: Final = Registry[Callable[..., Any]](  # of `gac_core.fusion.rules.Rule`
    "fusion",
    {
        "mean": "gac_core.fusion.rules:mean",
        "power": "gac_core.fusion.rules:power",
        "geometric": "gac_core.fusion.rules:geometric",
        "unite": "gac_core.fusion.rules:unite",
        "core": "gac_core.fusion.rules:core",
    },
    ("auto",),
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
    """Register a decoding method for `method=...`.

    Args:
        name: its name.
        method: a generator function of a `Request`, or its whole spec.
        about: further fields of its `MethodSpec`, such as `options`, `spaces` or `ignores`.

    Raises:
        ConfigError: the name is taken, the method is no function, or its spec is wrong.

    Example:
        >>> from gac_core import Ensemble, register_method
        >>> def alone(request):
        ...     while not request.finished:
        ...         own = request.read((yield request.ask(request.primary)))
        ...         yield request.emit_alone(own[request.primary])
        >>> register_method("alone", alone)
        >>> chat = [{"role": "user", "content": "What is 77 - 49?"}]
        >>> with Ensemble.pocket(method="alone") as ensemble:
        ...     output = ensemble.generate(chat)
        >>> output.text, output.usage.fused_steps
        ('77 - 49 = 28', 0)

    """
    known = [field.name for field in fields(MethodSpec) if field.name not in ("name", "method")]
    if unknown := sorted(about.keys() - set(known)):
        raise ConfigError(f"method {name}: unknown {', '.join(unknown)}; a spec has {known}")
    if isinstance(method, MethodSpec):
        method = replace(method, name=name, **about)
    else:
        _check_callable("method", name, method)
        method = MethodSpec(name, method, **about)
    METHODS.add(name, method)


def register_fusion(name: str, rule: Callable[..., Any]) -> None:
    """Register a fusion rule for `fusion=...`.

    Args:
        name: its name.
        rule: a function of `Views` that gives probabilities over the union, (size,) of mass 1.

    Raises:
        ConfigError: the name is taken, or the rule is no function.

    Example:
        >>> from gac_core import Ensemble, register_fusion
        >>> def highest(views):
        ...     probs = views.probs.amax(0)
        ...     return probs / probs.sum()
        >>> register_fusion("highest", highest)
        >>> chat = [{"role": "user", "content": "What is 77 - 49?"}]
        >>> with Ensemble.pocket(fusion="highest") as ensemble:
        ...     print(ensemble.generate(chat).text)
        77 - 49 = 28

    """
    _check_callable("fusion", name, rule)
    FUSIONS.add(name, rule)


def register_weighting(name: str, weighting: type[Any]) -> None:
    """Register a weighting for `weighting=...`.

    Args:
        name: its name.
        weighting: a subclass of `Weighting`; each request gets an object of it.

    Raises:
        ConfigError: the name is taken, or it is no subclass of `Weighting`.

    Example:
        >>> from gac_core import EnsembleConfig, Weighting, register_weighting
        >>> class Even(Weighting):
        ...     def weigh(self, members, probs):
        ...         return probs.new_ones(len(members))
        >>> register_weighting("even", Even)
        >>> EnsembleConfig(members=["org/model-a", "org/model-b"], weighting="even").weighting
        'even'

    """
    if not (isinstance(weighting, type) and hasattr(weighting, "weigh")):
        raise ConfigError(
            f"weighting {name} must be a subclass of Weighting, not {weighting!r:.80}"
        )
    WEIGHTINGS.add(name, weighting)


def _check_callable(kind: str, name: str, value: object) -> None:
    if not callable(value):
        raise ConfigError(f"{kind} {name} must be a function, not {value!r:.80}")


_REGISTER: Final[dict[str, Callable[[str, Any], None]]] = {
    "method": register_method,
    "fusion": register_fusion,
    "weighting": register_weighting,
}
