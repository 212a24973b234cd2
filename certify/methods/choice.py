"""The methods that there are, and the choice of some of them from what a caller writes."""

from collections.abc import Iterable

import msgspec

from bounds.errors import InvalidInput
from certify.methods.base import Method
from certify.methods.proofs import (
    CompleteSearch,
    IntervalBounds,
    LinearBounds,
    LinearBoundsBehindIntervals,
    Lipschitz,
    OptimisedLinearBounds,
    Verify,
)
from certify.methods.searches import Clever, MinimalPerturbation
from certify.methods.smoothed import SmoothedAttack, Smoothing

METHODS: tuple[type[Method], ...] = (
    *(Smoothing, IntervalBounds, LinearBoundsBehindIntervals, LinearBounds, OptimisedLinearBounds, Lipschitz, Verify),
    CompleteSearch,
    *(Clever, MinimalPerturbation, SmoothedAttack),
)

STANDARD: tuple[Method, ...] = (Smoothing(), IntervalBounds(), MinimalPerturbation())


def default_name(kind: type[Method]) -> str:
    """The name of a method that is given no other.

    >>> default_name(Smoothing)
    'smoothing'
    """
    (field,) = (field for field in msgspec.structs.fields(kind) if field.name == "name")
    own = getattr(kind, "name", None)  # of a class that hides the setting
    return own if isinstance(own, str) else str(field.default)


BY_NAME: dict[str, type[Method]] = {default_name(kind): kind for kind in METHODS}


def methods_of(given: object) -> list[Method]:
    """Settings of methods, from settings, classes and names, one or several; ``"standard"`` for :data:`STANDARD`.

    >>> [method.name for method in methods_of(["ibp", MinimalPerturbation, Smoothing(n=100)])]
    ['ibp', 'attack', 'smoothing']

    Raises:
        InvalidInput: something else, or a class that has settings without a default.
    """
    if isinstance(given, str) and given == "standard":
        return list(STANDARD)
    if isinstance(given, str | Method | type):
        given = [given]
    if not isinstance(given, Iterable):
        raise InvalidInput(_wanted(given))
    return [_method_of(one) for one in given]


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
        f"methods must be one of standard, {', '.join(BY_NAME)}, or settings from certify.methods such as "
        f"Smoothing(n=1000), or a list of these, got {given!r}"
    )
