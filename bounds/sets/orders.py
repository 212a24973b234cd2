"""Orders of norms, and names that stand in their place for sets of perturbations with a unit of their own."""

from typing import Self

CHANGES = "changes"  # a unit of whole numbers


class NamedSet(str):
    """Name of a set of perturbations that is no ball of a norm, and the unit of its sizes, behind the last comma.

    It stands wherever the order of a norm does, and sorts behind all of them.

    >>> rotation = NamedSet("rotation -10..10, degrees")
    >>> rotation.unit, sorted([rotation, float("inf"), 2.0])
    ('degrees', [2.0, inf, 'rotation -10..10, degrees'])
    """

    __slots__ = ()

    def __new__(cls, name: str) -> Self:
        """The name itself.

        Raises:
            ValueError: a name without a unit, or with a sign that names of files cannot have.
        """
        about, comma, unit = name.rpartition(", ")
        if not (about and comma and unit) or not name.isprintable() or set('/\\:*?"<>|') & set(name):
            raise ValueError(f"Expected a norm, or a set with its unit such as 'rotation, degrees', got {name!r}")
        return super().__new__(cls, name)

    @property
    def unit(self) -> str:
        """The unit of sizes."""
        return self.rpartition(", ")[2]

    def __lt__(self, other: object) -> bool:
        return isinstance(other, str) and str.__lt__(self, other)

    def __le__(self, other: object) -> bool:
        return isinstance(other, str) and str.__le__(self, other)

    def __gt__(self, other: object) -> bool:
        return not isinstance(other, str) or str.__gt__(self, other)

    def __ge__(self, other: object) -> bool:
        return not isinstance(other, str) or str.__ge__(self, other)

    def __format__(self, form: str) -> str:
        """The name, whatever the form: of numbers too, as orders are written."""
        return str(self)


Order = float | NamedSet


def order_of(key: str | float) -> Order:
    """The order of a norm, or the set of perturbations, as records and manifests write it.

    >>> order_of("inf"), order_of("rotation -10..10, degrees")
    (inf, 'rotation -10..10, degrees')

    Raises:
        ValueError: neither.
    """
    try:
        return float(key)
    except ValueError:
        return NamedSet(str(key))


def order_key(order: Order) -> str:
    """An order as records and manifests write it, with all its digits: JSON has no infinity.

    >>> order_key(2), order_key(2.5), order_key(float("inf")), order_key(NamedSet("rotation -1..1, degrees"))
    ('2', '2.5', 'inf', 'rotation -1..1, degrees')
    """
    return str(order) if isinstance(order, str) else repr(float(order)).removesuffix(".0")


def is_counted(order: Order) -> bool:
    """Whether sizes are whole numbers: of changed entries, features or words.

    >>> is_counted(0), is_counted(2.0), is_counted(NamedSet("at most 3 words, changes"))
    (True, False, True)
    """
    return order.unit == CHANGES if isinstance(order, NamedSet) else order == 0


def refutes(distance: float, radius: float, order: Order) -> bool:
    """Whether an adversarial example at a distance shows that a certified radius is wrong.

    Distances are rounded up, so that one at the radius itself may lie beyond it; whole numbers are exact.

    >>> refutes(2.0, 2.0, float("inf")), refutes(2.0, 2.0, NamedSet("at most 3 words, changes"))
    (False, True)
    """
    return distance <= radius if radius > 0 and is_counted(order) else distance < radius
