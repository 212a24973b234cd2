"""Which inputs an attack at a fixed budget may reach."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds import checks
from bounds.checks import Limit
from bounds.errors import InvalidInput
from certify.attacks.geometry import inner_side

NORMS = (1, 2, math.inf)


@dataclass(frozen=True, eq=False)
class Threat:
    """The inputs that an attack may reach; arguments as in :func:`certify.attacks.robust_accuracy`."""

    norm: float
    epsilon: float | Tensor
    low: Limit = 0.0
    high: Limit = 1.0
    frozen_features: Tensor | None = None

    def check(self, x: Tensor) -> None:
        """Refuse what is no set of inputs around ``x``."""
        if self.norm not in NORMS:
            raise InvalidInput(f"norm must be 1, 2 or math.inf, got {self.norm}")
        checks.inputs(x, self.low, self.high)
        if isinstance(self.epsilon, Tensor):
            if self.epsilon.shape not in ((), (len(x),)):
                raise InvalidInput(
                    f"epsilon must be a number or of shape ({len(x)},), got {tuple(self.epsilon.shape)}: "
                    f"pass one budget per input"
                )
            if not ((self.epsilon >= 0) & self.epsilon.isfinite()).all():
                raise InvalidInput("epsilon must be finite and at least 0 in every row")
        else:
            checks.nonnegative("epsilon", self.epsilon)
        mask = self.frozen_features
        if mask is not None:
            if checks.tensor("frozen_features", mask).dtype != torch.bool:
                raise InvalidInput(f"frozen_features must be a bool tensor, got {mask.dtype}: True where nothing moves")
            fits = zip(mask.shape[::-1], x.shape[:0:-1], strict=False)
            if mask.ndim >= x.ndim or not all(size in (1, entries) for size, entries in fits):
                raise InvalidInput(
                    f"frozen_features must broadcast to one input, of shape {tuple(x.shape[1:])}, "
                    f"got {tuple(mask.shape)}: pass one mask for all inputs"
                )

    def budgets(self, x: Tensor) -> Tensor:
        """Epsilon of each row, (N,) float64."""
        return torch.as_tensor(self.epsilon, dtype=torch.float64, device=x.device).expand(len(x)).clone()

    def sides(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each entry, (N, *D) each; infinite where open, ``x`` itself where frozen."""
        low, high = inner_side(self.low, x, math.inf), inner_side(self.high, x, -math.inf)
        lower = torch.full_like(x, -math.inf) if low is None else low.expand_as(x)
        upper = torch.full_like(x, math.inf) if high is None else high.expand_as(x)
        if self.frozen_features is None:
            return lower, upper
        mask = self.frozen_features.to(x.device)
        return torch.where(mask, x, lower), torch.where(mask, x, upper)
