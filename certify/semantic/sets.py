"""Sets of transformed images as an evaluation names, stores and reads them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bounds import checks
from bounds.errors import BoundsError, InvalidConfiguration, InvalidInput
from bounds.sets.orders import order_key
from certify.importing import imported, reference_of
from certify.semantic.curves import TransformationCurves
from certify.semantic.random_draws import TransformationAccuracy
from certify.semantic.transformations import (
    Blur,
    Compose,
    Photometric,
    Rotation,
    Scale,
    Shear,
    Transformation,
    Translation,
)
from certify.sets.stated import StatedSet, Table

COMPOSE = "compose"
PLAIN = (str, int, float)  # fields that are no ranges
KINDS: Mapping[str, type[Transformation]] = {
    kind.__name__.lower(): kind for kind in (Rotation, Translation, Scale, Shear, Photometric, Blur)
}


class TransformationSet(StatedSet):
    """Images under a transformation with a range of parameters, with l-infinity noise on top if ``epsilon`` is not 0.

    It is a text, which names transformation, ranges and unit: the place of the order of a norm in records and tables.

    Args:
        transformation: of :mod:`certify.semantic`.
        epsilon: radius of the noise, in units of the input.
        channels_last: whether images are (N, H, W, C).

    >>> TransformationSet(Rotation((-10, 10)))
    'rotation -10..10, degrees'
    >>> TransformationSet(Photometric(contrast=(0.8, 1.2), brightness=(-0.1, 0.1)), epsilon=0.01)
    'photometric contrast 0.8..1.2 brightness -0.1..0.1 with noise 0.01, share of the range'

    Raises:
        InvalidInput: no transformation, or an epsilon below 0.
    """

    KEY = "transformations"
    TITLE = "Transformations of images"
    NOTE = (
        "Accuracy when every image is changed by up to the given size: proved for all such changes, left by an attack, "
        "and of random changes, which bound nothing."
    )
    CURVES = TransformationCurves

    transformation: Transformation
    epsilon: float
    channels_last: bool

    def __new__(
        cls, transformation: Transformation, epsilon: float = 0.0, channels_last: bool = False
    ) -> "TransformationSet":
        """The name, with the transformation that it stands for."""
        if not isinstance(transformation, Transformation):
            raise InvalidInput(
                f"transformations must be of certify.semantic, got {transformation!r}: pass Rotation((-5, 5))"
            )
        _table(transformation)  # which refuses what no manifest holds
        radius = checks.nonnegative("epsilon", epsilon)
        words = [_words(transformation)]
        words += [f"with noise {order_key(radius)}"] * (radius > 0) + ["of channels last"] * bool(channels_last)
        found = super().__new__(cls, f"{' '.join(words)}, {transformation.unit}")
        found.transformation, found.epsilon, found.channels_last = transformation, radius, bool(channels_last)
        return found

    def __getnewargs__(self) -> tuple[Any, ...]:  # for pickle
        return self.transformation, self.epsilon, self.channels_last

    @property
    def reach(self) -> float:
        """The size of the whole range."""
        return self.transformation.reach

    def accuracy(self, **found: Any) -> TransformationAccuracy:  # noqa: ANN401  # the fields of a record
        """A record of random transformations."""
        return TransformationAccuracy(transformation=str(self), **found)

    def table(self) -> Table:
        """The set in plain values, for a manifest; :func:`set_of` reads it.

        >>> TransformationSet(Rotation((-10, 10))).table()
        {'kind': 'rotation', 'degrees': [-10.0, 10.0], 'padding': 'zeros'}
        """
        more = {"epsilon": self.epsilon} if self.epsilon else {}
        return _table(self.transformation) | more | ({"channels_last": True} if self.channels_last else {})

    @classmethod
    def of(cls, given: object) -> "TransformationSet":
        """The set of a transformation, see :class:`certify.sets.stated.StatedSet`."""
        return given if isinstance(given, TransformationSet) else cls(given)  # type: ignore[arg-type]  # which refuses

    @classmethod
    def of_table(cls, table: object, place: str, folder: Path | None = None) -> "TransformationSet":
        """The set of a table, see :class:`certify.sets.stated.StatedSet`."""
        return set_of(table, place)


def set_of(table: object, place: str = "[[transformations]]") -> TransformationSet:
    """The set of a table, in a configuration or a manifest.

    Raises:
        InvalidConfiguration: no table of a transformation, with what is wrong with it.
    """
    if not isinstance(table, Mapping):
        raise InvalidConfiguration(f"{place} must be a table of settings, got {table!r}")
    settings = dict(table)
    about = {name: settings.pop(name) for name in ("epsilon", "channels_last") if name in settings}
    if not isinstance(about.get("channels_last", False), bool):
        raise InvalidConfiguration(f"{place} channels_last must be true or false, got {about['channels_last']!r}")
    try:
        return TransformationSet(_transformation(settings, place), **about)
    except BoundsError as error:
        said = str(error)
        raise InvalidConfiguration(said if said.startswith(place) else f"{place} {said}") from error


def _words(transformation: Transformation) -> str:
    """Kind and ranges in a few words, by which any two differ."""
    if isinstance(transformation, Compose):
        return " then ".join(map(_words, transformation.parts))
    parts = transformation.parameters
    shown = [part for part in parts if part.low < part.high or part.low != part.identity] or list(parts)
    words = [type(transformation).__name__.lower()]
    for part in shown:
        ends = dict.fromkeys(order_key(end) for end in (part.low, part.high))
        words += [part.name] * (len(parts) > 1) + ["..".join(ends)]
    if dataclasses.is_dataclass(transformation):
        found = [(each, getattr(transformation, each.name)) for each in dataclasses.fields(transformation)]
        words += [f"{each.name} {value}" for each, value in found if isinstance(value, PLAIN) and value != each.default]
    return " ".join(words)


def _table(transformation: Transformation) -> Table:
    if isinstance(transformation, Compose):
        return {"kind": COMPOSE, "parts": [_table(part) for part in transformation.parts]}
    if not dataclasses.is_dataclass(transformation):
        raise InvalidInput(
            f"a transformation of an evaluation must be a dataclass, got {type(transformation).__name__}: its fields "
            "are written into the manifest"
        )
    names = {kind: name for name, kind in KINDS.items()}
    fields = {field.name: getattr(transformation, field.name) for field in dataclasses.fields(transformation)}
    plain = {name: _plain(name, value) for name, value in fields.items() if value is not None}
    kind = type(transformation)
    return {"kind": names.get(kind) or reference_of(kind), **plain}


def _plain(name: str, value: object) -> object:
    """A field as a manifest holds it."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Sequence) and len(value) == 2:
        return [float(end) for end in value]
    raise InvalidInput(
        f"{name} of a transformation of an evaluation must be a range (low, high), a text or a number, got {value!r}: "
        f"its manifest holds no other fields"
    )


def _transformation(settings: Table, place: str) -> Transformation:
    given = settings.pop("kind", None)
    if given == COMPOSE:
        parts = settings.pop("parts", None)
        if settings or not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
            raise InvalidConfiguration(f'{place} of kind "compose" must have parts, a list of tables, got {settings}')
        return Compose(*(_transformation(dict(part), place) for part in parts))
    kind: object = KINDS.get(given) if isinstance(given, str) else None
    if isinstance(given, str) and ":" in given:
        kind = imported(f"{place} kind", given)
    if not (isinstance(kind, type) and issubclass(kind, Transformation) and dataclasses.is_dataclass(kind)):
        raise InvalidConfiguration(f"{place} kind must be one of {', '.join([*KINDS, COMPOSE])}, got {given!r}")
    names = [field.name for field in dataclasses.fields(kind)]
    for name, value in settings.items():
        ends = isinstance(value, list | tuple) and all(type(end) in (int, float) for end in value)
        if name not in names or not (isinstance(value, PLAIN) or (ends and len(value) == 2)):
            raise InvalidConfiguration(
                f"{place} must have ranges [low, high], texts and numbers under the keys {', '.join(names)}, got "
                f"{name} = {value!r}"
            )
    try:
        return kind(**{name: value if isinstance(value, PLAIN) else tuple(value) for name, value in settings.items()})
    except TypeError as error:
        raise InvalidConfiguration(f"{place}: {error}") from error
