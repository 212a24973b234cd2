"""The methods that there are, and the choice of some of them from what a caller writes."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from bounds.errors import InvalidInput
from bounds.sets.orders import Order
from certify.methods.base import Method
from certify.methods.copies import QuantisedCopy
from certify.methods.presets import PRESETS, Space, not_served, preset_methods
from certify.methods.proofs import (
    CompleteSearch,
    IntervalBounds,
    LinearBounds,
    LinearBoundsBehindIntervals,
    Lipschitz,
    OptimisedLinearBounds,
    Verify,
)
from certify.methods.random_noise import RandomNoise
from certify.methods.searches import Clever, MinimalPerturbation
from certify.methods.sets.changes import ChangeBounds, CounterfactualAttack, RandomChanges
from certify.methods.sets.transformations import RandomTransformations, TransformationAttack, TransformationBounds
from certify.methods.smoothed import SmoothedAttack, Smoothing

METHODS: tuple[type[Method], ...] = (
    *(Smoothing, IntervalBounds, LinearBoundsBehindIntervals, LinearBounds, OptimisedLinearBounds, Lipschitz, Verify),
    *(CompleteSearch, QuantisedCopy),
    *(Clever, RandomNoise, MinimalPerturbation, SmoothedAttack),
    *(TransformationBounds, TransformationAttack, RandomTransformations),
    *(ChangeBounds, CounterfactualAttack, RandomChanges),
)

OF_SETS: tuple[Method, ...] = (
    *(TransformationBounds(), TransformationAttack(), RandomTransformations()),
    *(ChangeBounds(), CounterfactualAttack(), RandomChanges()),
)
STANDARD: tuple[Method, ...] = (Smoothing(), IntervalBounds(), MinimalPerturbation())  # where none are asked for
UNIT = Space()


def default_name(kind: type[Method]) -> str:
    """The name of a method that is given no other.

    >>> default_name(Smoothing)
    'smoothing'
    """
    (field,) = (field for field in msgspec.structs.fields(kind) if field.name == "name")
    own = getattr(kind, "name", None)  # of a class that hides the setting
    return own if isinstance(own, str) else str(field.default)


BY_NAME: dict[str, type[Method]] = {default_name(kind): kind for kind in METHODS}


class Choice(NamedTuple):
    """Methods of an evaluation.

    Attributes:
        methods: their settings.
        preset: the name of the preset among what was asked for; empty if there is none.
        lenient: names of methods that a preset brought, which leave out what they cannot do.
        notes: what the preset leaves out since a method does not serve a norm.
    """

    methods: list[Method]
    preset: str = ""
    lenient: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def chosen_methods(given: object, norms: Sequence[Order], space: Space) -> Choice:
    """The methods that are asked for, a preset among them or not.

    Where there are sets of perturbations of a kind and no method for them, all such methods join. Settings that are
    given next to a preset replace those of the same name in it.

    Args:
        given: settings, classes and names, one or several.
        norms: orders and sets of perturbations that are asked for.
        space: the size of the inputs, which presets measure by.
    """
    if isinstance(given, str | Method | type):
        given = [given]
    if not isinstance(given, Iterable):
        raise InvalidInput(_wanted(given))
    asked = list(given)
    presets = [one for one in asked if isinstance(one, str) and one in PRESETS]
    own = [_method_of(one) for one in asked if not (isinstance(one, str) and one in PRESETS)]
    sets = [norm for norm in norms if isinstance(norm, str)]
    lacking = [each for each in sets if not any(method.serves(each) for method in own)]
    own += [method for method in OF_SETS if any(method.serves(each) for each in lacking)]
    if not presets:
        return Choice(own)
    if len(presets) > 1:
        raise InvalidInput(f"methods must name one preset, got {' and '.join(presets)}: each has methods of all kinds")
    orders = [norm for norm in norms if not isinstance(norm, str)]
    brought = preset_methods(presets[0], orders, space)
    named = {method.name: method for method in brought} | {method.name: method for method in own}
    lenient = frozenset(method.name for method in brought) - {method.name for method in own}
    return Choice(list(named.values()), presets[0], lenient, tuple(not_served(brought, orders)))


def methods_of(given: object, norms: Sequence[Order] = (2.0, math.inf), space: Space = UNIT) -> list[Method]:
    """Settings of methods, from settings, classes and names, one or several, or from the name of a preset.

    >>> [method.name for method in methods_of(["ibp", MinimalPerturbation, Smoothing(n=100)])]
    ['ibp', 'attack', 'smoothing']

    Raises:
        InvalidInput: something else, or a class that has settings without a default.
    """
    return chosen_methods(given, norms, space).methods


def _method_of(given: object) -> Method:
    kind = BY_NAME.get(given) if isinstance(given, str) else given
    if isinstance(kind, type) and issubclass(kind, Method):
        try:
            return kind()
        except TypeError as error:  # a setting without a default
            raise InvalidInput(
                f"methods: {kind.__name__} needs settings, so pass an instance of it: {error}"
            ) from error
    if not isinstance(kind, Method):
        raise InvalidInput(_wanted(given))
    return kind


def _wanted(given: object) -> str:
    return (
        f"methods must be one of {', '.join([*PRESETS, *BY_NAME])}, or settings from certify.methods such as "
        f"Smoothing(n=1000), or a list of these, got {given!r}"
    )
