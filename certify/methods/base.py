"""Base of the methods of an evaluation: settings, checked, and one call on the problem."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bounds.checks import Limit
from bounds.errors import InvalidInput
from bounds.memory import MEMORY
from bounds.sets.uniform import stream_seed
from certify.methods.checked import Checked, Name
from certify.results import Certificate, Estimate, NoiseTolerance, Witness
from certify.sets.draws import SetAccuracy
from certify.smoothing.drawing.distributions import lie_on_grid
from certify.stored_inputs import Rows, StoredInputs

Result = Certificate | Estimate | Witness | NoiseTolerance | SetAccuracy


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """A model with labelled inputs: what every method of one evaluation is run on.

    Attributes:
        model: maps (N, *D) to logits (N, K).
        x: (N, *D), inputs: a tensor, or :class:`certify.StoredInputs`, of which slices and places give tensors.
        y: (N,) int64, correct classes.
        low: lower side of the box.
        high: upper side of the box.
        num_classes: K.
        seed: run seed.
        batch_size: rows of a forward pass, at most.
        first_index: place of the first input in its data set.
        stated_on_grid: whether all inputs of that data set are 8-bit; None if these are all of it.
        batch_sizes: rows of a forward pass of single methods, by name, where memory allows them no more.
        memory: bytes that a method may take besides the model and the inputs; None without a limit.
    """

    model: nn.Module
    x: Rows
    y: Tensor
    low: Limit
    high: Limit
    num_classes: int
    seed: int
    batch_size: int
    first_index: int = 0
    stated_on_grid: bool | None = None
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    memory: int | None = None

    @cached_property
    def on_grid(self) -> bool:
        """Whether all inputs are 8-bit: asked of the whole data set, so that no slice of it decides for itself."""
        return lie_on_grid(self.x) if self.stated_on_grid is None else self.stated_on_grid

    def place(self, rows: slice) -> int:
        """Place of the first of these rows in the data set."""
        return self.first_index + int(rows.start)

    @property
    def memory_of_bounds(self) -> int:
        """Bytes that the parts of a bound may take."""
        return MEMORY if self.memory is None else max(1, min(MEMORY, self.memory // 4))

    def for_method(self, name: str) -> "Problem":
        """The problem with the batches of one method."""
        if name not in self.batch_sizes:
            return self
        return replace(self, batch_size=self.batch_sizes[name], batch_sizes={}, stated_on_grid=self.on_grid)

    def held(self, rows: slice) -> tuple["Problem", slice]:
        """A problem that has the inputs of some rows in memory, and these rows in it."""
        if not isinstance(self.x, StoredInputs):
            return self, rows
        x, y = self.x[rows], self.y[rows]
        own = replace(self, x=x, y=y, first_index=self.place(rows), stated_on_grid=self.on_grid)
        return own, slice(0, len(x))

    def generator(self, place: int = 0) -> torch.Generator:
        """A fresh generator on the device of the inputs: of the run's seed, and of its own for every other place.

        Seeds that are added up would give input 50 of one run the draws of input 0 of the run of the 50th seed after.
        """
        seed = stream_seed(self.seed, place, 0) if place else self.seed
        return torch.Generator(self.x.device).manual_seed(seed)


class Method(Checked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one method. Its results for a slice of rows depend on nothing but these and the problem.

    ``name`` tells the methods of one run apart: give several settings of one class different names.
    """

    norms: ClassVar[tuple[float, ...]]
    rows_per_unit: ClassVar[int]  # most inputs in one unit of work: what a kill can lose at most
    one_by_one: ClassVar[bool] = False  # whether inputs are run alone, so that none shares its draws with others
    divisible: ClassVar[bool] = True  # whether units may be smaller, since no input's results depend on the others

    name: Name = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = Method.__dict__["name"].__get__(self)
        if given not in ("", self.name):  # an attribute of the class hides the setting
            raise InvalidInput(
                f"name={given!r} is lost, as {type(self).__name__} calls itself {self.name!r} whatever is asked: write "
                f"`name: str = {self.name!r}` in that class"
            )

    def shortened(self, share: float = 1.0) -> tuple["Method", float]:
        """Settings of the same method with less work, for a probe, and how many times as much this one has.

        Args:
            share: of the work of a probe; of two probes with different shares, the difference is pure work.
        """
        return self, 1.0

    def serves(self, norm: object) -> bool:
        """Whether there are results in a norm, given by its order, or for a set of perturbations in its place."""
        return norm in self.norms

    @abstractmethod
    def run(self, problem: Problem, rows: slice, norm: Any) -> Result:  # noqa: ANN401  # each has its own kind
        """Results for the given rows, in one norm, or for the set of perturbations that stands in its place."""
        raise NotImplementedError
