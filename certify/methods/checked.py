"""Settings whose values keep their declared types and bounds, from Python and from files alike."""

import difflib
import math
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, inspect

from bounds.errors import InvalidConfiguration, InvalidInput

Count = Annotated[int, Meta(ge=1)]
Even = Annotated[int, Meta(ge=2, multiple_of=2)]  # of draws that come in pairs of opposite sign
Positive = Annotated[float, Meta(gt=0)]
Probability = Annotated[float, Meta(gt=0, lt=1)]
Name = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f/\\]+\Z", max_length=100)]  # it names units of work and files

LIMITS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}


class Checked(msgspec.Struct, frozen=True):
    """A struct whose fields keep their declared types and bounds also when it is built from Python.

    >>> from certify.methods import Smoothing
    >>> Smoothing(n=0)
    Traceback (most recent call last):
    bounds.errors.InvalidInput: Smoothing n must be a whole number of at least 1, got 0: the default is 10000
    """

    def __post_init__(self) -> None:
        # msgspec itself checks values only when it decodes. Field by field, or convert() would call this again.
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            try:
                msgspec.convert(value, field.type)
            except ValueError as error:
                raise InvalidInput(wrong_value(type(self).__name__, field, value)) from error
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidInput(f"{type(self).__name__} {field.name} must be a finite number, got {value}")


Kind = TypeVar("Kind", bound=msgspec.Struct)


def converted(place: str, table: object, kind: type[Kind]) -> Kind:
    """The struct that a table of a file stands for, with the structs in it.

    Args:
        place: where the table stands, such as ``[data]``, for messages; empty for the file itself.
        table: keys and values.
        kind: of the struct.

    Raises:
        InvalidConfiguration: no table, an unknown key, a missing one, or a value that does not fit.
        InvalidInput: values that do not fit each other.
    """
    if not isinstance(table, dict):
        raise InvalidConfiguration(f"{place} must be a table of keys and values, got {table!r}")
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key in table:
        require_known(place, key, fields)
    for name, field in fields.items():
        if field.required and name not in table:
            raise InvalidConfiguration(_missing(place, field))
    return kind(**{key: _value(place, fields[key], value) for key, value in table.items()})


def require_known(place: str, key: str, known: object) -> None:
    """Refuse a key that does not exist, with those that do, and the one that was likely meant."""
    names = [str(name) for name in known]  # type: ignore[attr-defined]  # any mapping or sequence
    if key not in names:
        near = difflib.get_close_matches(str(key), names, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        where = place or "the configuration"
        raise InvalidConfiguration(
            f"{where} must have known keys only, got {key!r}{meant}: known are {', '.join(names)}"
        )


def _value(place: str, field: msgspec.structs.FieldInfo, value: object) -> object:
    """The value of a field; structs within it are converted in the same way."""
    inner = f"[{field.name}]"
    if _is_struct(field.type):
        return converted(inner, value, field.type)
    several = [kind for kind in get_args(field.type) if _is_struct(kind)]
    if several and isinstance(value, list):
        return [converted(f"[{inner}]", one, several[0]) for one in value]
    if several and get_origin(field.type) is list and isinstance(value, dict):
        raise InvalidConfiguration(
            f"[{inner}] must stand in double brackets, got {inner}: write [{inner}], since there may be several"
        )
    if several and get_origin(field.type) is not list and value is not None:
        return converted(inner, value, several[0])
    try:
        return msgspec.convert(value, field.type)
    except ValueError as error:
        raise InvalidConfiguration(wrong_value(place, field, value)) from error


def _missing(place: str, field: msgspec.structs.FieldInfo) -> str:
    if _is_struct(field.type):
        return f"[{field.name}] must be given: a table with some of the keys {', '.join(field.type.__struct_fields__)}"
    example = _example(inspect.type_info(field.type))
    such = f", such as {example}" if example else ""
    return f"{_in(place)}{field.name} must be given: it is {rule(field.type)}{such}, without a default"


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def wrong_value(place: str, field: msgspec.structs.FieldInfo, value: object) -> str:
    """The sentence for a value that does not fit: argument, rule, value, and the default if there is one."""
    remedy = f": write {example}" if (example := _example(inspect.type_info(field.type))) else ""
    if isinstance(field.default, int | float | str) and not isinstance(field.default, bool):
        remedy = f": the default is {field.default!r}"
    elif field.default is None:
        remedy = f"{remedy}, or leave it out" if remedy else ": leave it out, or correct it"
    return f"{_in(place)}{field.name} must be {rule(field.type)}, got {value!r}{remedy}"


def _in(place: str) -> str:
    return f"{place} " if place else ""


def rule(kind: Any) -> str:  # noqa: ANN401  # any annotation
    """The values that a type allows, in words.

    >>> rule(Probability), rule(Count | None)
    ('a number above 0 and below 1', 'a whole number of at least 1')
    """
    return _words(inspect.type_info(kind))


def _example(kind: inspect.Type) -> str:
    """The example that a type was annotated with; empty if there is none."""
    if isinstance(kind, inspect.Metadata):
        return str((kind.extra_json_schema or {}).get("examples", [""])[0])
    if isinstance(kind, inspect.UnionType):
        return next((found for one in kind.types if (found := _example(one))), "")
    return ""


def _words(kind: inspect.Type) -> str:
    """A type in words; None, which stands for a key that is left out, is not among them."""
    if isinstance(kind, inspect.Metadata):
        return _words(kind.type)
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        limits = [f"{word} {getattr(kind, name):g}" for name, word in LIMITS.items() if getattr(kind, name) is not None]
        number = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
        if kind.multiple_of == 2:
            number = "an even number"
        return f"{number} {' and '.join(limits)}".strip()
    if isinstance(kind, inspect.LiteralType):
        shown = ", ".join(f'"{value}"' for value in kind.values)
        return shown if len(kind.values) == 1 else f"one of {shown}"
    if isinstance(kind, inspect.StrType):
        return "a text" if kind.pattern is None else "a short text without slashes and line breaks"
    if isinstance(kind, inspect.ListType):
        least = f" of at least {kind.min_length}" if kind.min_length else ""
        return f"a list{least}, each entry {_words(kind.item_type)}"
    if isinstance(kind, inspect.UnionType):
        return " or ".join(_words(one) for one in kind.types if not isinstance(one, inspect.NoneType))
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.CustomType | inspect.StructType):
        return f"a {kind.cls.__name__}"
    return "another value"
