"""The options of a method among those of the ensemble: from flat values to the method's model.

A configuration is flat, ``{"method": "safe", "block": 3, "history": "append"}``, but what only one
method has is checked by that method's `MethodOptions`.
"""

from collections.abc import Collection, Sequence
from typing import Any

from gac_core.method_specs import PRESETS, MethodOptions
from gac_core.registry import METHODS


def gathered(values: dict[str, Any], fields: Sequence[str], taken: Collection[str]) -> Any:
    """Flat values with a preset replaced by its options, and the method's own under "options".

    Args:
        values: as a user gives them.
        fields: the names of the ensemble's own options.
        taken: further names that no option of a method may have.

    Raises:
        ValueError: options contradict a preset, or belong to another method; or the method's own
            are wrong.

    """
    values = _expanded(values)
    method = values.get("method", "every_step")
    model = METHODS.get(method).options
    if clash := [name for name in model.model_fields if name in fields or name in taken]:
        raise ValueError(
            f"method {method} has options of the ensemble's names ({', '.join(clash)}); rename "
            "them, or read the ensemble's from request.config"
        )
    given = values.pop("options", None)
    if given is not None and not isinstance(given, MethodOptions):
        known = ", ".join([*fields, *model.model_fields])
        raise ValueError(f"options: unknown option; EnsembleConfig has: {known}")
    own = {} if given is None else dict(given)
    own |= {name: values.pop(name) for name in model.model_fields if name in values}
    for name in sorted(values.keys() - set(fields)):
        if (owners := _methods_with(name)) and not _is_default(values.pop(name), name, owners):
            raise ValueError(f"{name} needs method {' or '.join(owners)}, not {method}")
    return {**values, "options": model.of(own)}


def option_names(values: dict[str, Any]) -> list[str]:
    """The names of the options that only the method of these flat values has."""
    method = values.get("method", "every_step")
    is_known = isinstance(method, str) and method not in PRESETS
    return list(METHODS.get(method).options.model_fields) if is_known else []


def flattened(options: MethodOptions, mode: str, include: Any, exclude: Any) -> dict[str, Any]:
    """The options of a method as flat values, those at their defaults left out.

    So another method may be named beside them. `mode`, `include` and `exclude` are pydantic's.
    """
    return {
        name: value
        for name, value in options.model_dump(mode=mode, exclude_defaults=True).items()
        if (include is None or name in include) and (exclude is None or name not in exclude)
    }


def method_options() -> dict[str, str]:
    """The options of all methods that are known so far, and what they are."""
    found: dict[str, list[str]] = {}
    for method in METHODS.names:
        for name, field in METHODS.get(method).options.model_fields.items():
            found.setdefault(name, []).append(f"{method}: {field.description}")
    return {name: "; ".join(about) for name, about in found.items()}


def _expanded(values: dict[str, Any]) -> dict[str, Any]:
    """A copy in which a preset as the method is replaced by what it stands for."""
    preset = PRESETS.get(values.get("method", ""))
    if preset is None:
        return dict(values)
    for name, value in preset.items():
        if values.get(name, value) != value:
            raise ValueError(f"method {values['method']} is {name} {value}; drop one of them")
    return {**values, **preset, "method": "every_step"}


def _methods_with(option: str) -> list[str]:
    """The names of the methods that have an option of this name."""
    return [n for n in METHODS.names if option in METHODS.get(n).options.model_fields]


def _is_default(value: Any, option: str, methods: Sequence[str]) -> bool:
    """Whether an option of other methods changes nothing, as in a file that names them all."""
    defaults = [METHODS.get(name).options.model_fields[option].default for name in methods]
    return value is None or all(value == default for default in defaults)
