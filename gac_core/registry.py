"""Methods and fusion rules by name: built in, registered, or brought by an installed package.

A package brings some as entry points of the groups `gac.method` and `gac.fusion`.
"""

from collections.abc import Iterable, MutableMapping
from importlib.metadata import entry_points
from typing import Any

from gac_core.errors import ConfigError


def register(
    known: MutableMapping[str, Any], kind: str, name: str, function: Any, taken: Iterable[str] = ()
) -> None:
    """Add a function.

    Args:
        known: functions by name.
        kind: what they are, for messages.
        name: of the function.
        function: to add.
        taken: names that mean something else.

    Raises:
        ConfigError: the name is taken, or the function can not be called.

    """
    if not callable(function):
        raise ConfigError(f"{kind} {name} must be a function, not {function!r:.80}")
    if not name or name in taken or known.get(name, function) is not function:
        raise ConfigError(f"there is a {kind} {name!r} already; choose another name")
    known[name] = function


def find(known: MutableMapping[str, Any], kind: str, name: str, also: Iterable[str] = ()) -> Any:
    """The function of a name, perhaps from an entry point.

    Args:
        known: functions by name.
        kind: what they are.
        name: of the function.
        also: further names for messages.

    Raises:
        ConfigError: nobody knows the name.

    """
    if name not in known:
        for point in entry_points(group=f"gac.{kind}", name=name):
            try:
                register(known, kind, name, point.load())
            except (ImportError, AttributeError) as error:
                raise ConfigError(
                    f"{kind} {name!r} can not be loaded from {point.value}: {error}"
                ) from error
    if name not in known:
        there_are = ", ".join(n for n in (*known, *also) if not n.startswith("_"))
        raise ConfigError(
            f"there is no {kind} {name!r}; there are {there_are}, and what is registered or comes "
            f"as an entry point of the group gac.{kind}"
        )
    return known[name]
