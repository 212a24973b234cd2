"""Early stopping on robust accuracy."""

import math
from dataclasses import dataclass, field

from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput


@dataclass
class EarlyStopping:
    """Keeps the weights of the epoch with the largest robust accuracy, and says when to stop.

    Robust accuracy on held-out inputs falls late in adversarial training while that on the training inputs still rises
    (robust overfitting). Stopping in time gains more than most changes of the method. Measure accuracy on inputs that
    are neither trained on nor reported: the largest of many is too good for the inputs that chose it::

        stopping = EarlyStopping(patience=5)
        for epoch in range(100):
            ...
            attacked = certify.attacks.pgd(model, x_held_out, y_held_out, norm=math.inf, epsilon=0.1)
            if stopping.update(model, attacked.robust.double().mean()):
                break
        stopping.restore(model)

    Args:
        patience: epochs without a larger accuracy after which to stop; None for never.

    Attributes:
        best: the largest accuracy so far; minus infinity before the first.
        best_epoch: the number of updates before it; -1 before the first.
        epochs: the number of updates.

    Raises:
        InvalidInput: ``patience`` below 1.

    References:
        Rice, Wong, Kolter (2020), Overfitting in adversarially robust deep learning, arXiv:2002.11569.
    """

    patience: int | None = None
    best: float = field(default=-math.inf, init=False)
    best_epoch: int = field(default=-1, init=False)
    epochs: int = field(default=0, init=False)
    _weights: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.patience is not None:
            checks.at_least("patience", self.patience, 1)

    def update(self, model: nn.Module, robust_accuracy: float | Tensor) -> bool:
        """Tell the accuracy after an epoch, and learn whether to stop; of equal ones, the first is kept.

        The weights are copied where the model is. Accuracy that is not a number is never the best.
        """
        accuracy = float(robust_accuracy)
        if accuracy > self.best:
            self.best, self.best_epoch = accuracy, self.epochs
            self._weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.epochs += 1
        return self.patience is not None and self.epochs - 1 - self.best_epoch >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Give the model the weights and running statistics of the best epoch.

        Raises:
            InvalidInput: there is none.
        """
        if not self._weights:
            raise InvalidInput("EarlyStopping holds no weights yet: call update(model, accuracy) after an epoch")
        model.load_state_dict(self._weights)
