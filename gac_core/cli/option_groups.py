"""Options that belong together, as one parameter of a command."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_origin


class Without:
    """Marks a group, in `Annotated`, as lacking some of its options in a command.

    Args:
        names: the fields whose defaults hold.

    """

    def __init__(self, *names: str) -> None:
        self.names = names


def flatten_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer reads it: a parameter per option.

    A group is a dataclass whose fields are annotated as Typer's parameters are, each with a
    default. Its options stand where the group stands in the signature of the command.

    Args:
        command: a function; groups are among its keyword-only parameters.

    Raises:
        ValueError: two options have the same name.

    """
    groups: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        annotation, *marks = _unpack(parameter.annotation)
        if not (isinstance(annotation, type) and is_dataclass(annotation)):
            parameters.append(parameter)
            continue
        missing = {name for mark in marks if isinstance(mark, Without) for name in mark.names}
        options = [field for field in fields(annotation) if field.name not in missing]
        groups[parameter.name] = annotation, [field.name for field in options]
        parameters += [
            inspect.Parameter(
                field.name, parameter.kind, default=field.default, annotation=field.type
            )
            for field in options
        ]

    @wraps(command)
    def flat(**values: Any) -> None:
        for name, (group, options) in groups.items():
            values[name] = group(**{option: values.pop(option) for option in options})
        command(**values)

    shown: Any = flat
    shown.__signature__ = inspect.Signature(parameters)
    return flat


def _unpack(annotation: Any) -> tuple[Any, ...]:
    """A type and the marks `Annotated` gives it."""
    return get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
