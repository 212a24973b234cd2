"""Several models as one base classifier.

A smoothed certificate needs a base classifier that is a fixed function of one input, and nothing else. So the
certificate of a :class:`certify.SmoothedClassifier` whose model is an ensemble holds for the smoothed ensemble.
Averaging makes votes agree more often, and so radii larger. A denoiser before a classifier needs no class of its own:
``nn.Sequential(denoiser, classifier)`` is the base classifier of denoised smoothing.

References:
    Horváth, Müller, Fischer, Vechev (2022), Boosting randomized smoothing with variance reduced classifiers,
    arXiv:2106.06946. Salman et al. (2020), Denoised smoothing, arXiv:2003.01908.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bounds import checks
from bounds.errors import InvalidInput, InvalidModel

Average = Literal["logits", "probabilities"]


class Ensemble(nn.Module):
    """The mean of several classifiers, a classifier again.

    Args:
        models: each maps (N, *D) to logits (N, K).
        average: ``"logits"``, or ``"probabilities"`` for the softmax of each.

    Raises:
        InvalidInput: no model, or something else among them.

    >>> Ensemble([nn.Linear(4, 3), nn.Linear(4, 3)])(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, models: Iterable[nn.Module], *, average: Average = "logits") -> None:
        super().__init__()
        self.models = _members(models)
        self.average = checks.one_of("average", average, ("logits", "probabilities"))

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits or probabilities (N, K).

        Raises:
            InvalidModel: the models differ in what they return.
        """
        return _mean(_outputs(self.models, x, self.average))


class Consensus(nn.Module):
    """An ensemble that asks only its first members where these agree.

    Where the first ``k`` models give an input the same class, their mean is the answer, else the mean of all of them.
    The class is decided input by input, so that the classifier is a fixed function of one input. It differs
    from the whole ensemble, and a certificate is about this classifier.

    The remaining models see only the rows that need them. As with every network, logits may differ in their last bits
    with the number of rows of a forward pass, and here that number depends on the other rows. On a GPU each forward
    pass waits once for the device to know it.

    Args:
        models: each maps (N, *D) to logits (N, K), the cheap or good ones first.
        k: how many of them must agree.
        average: as for :class:`Ensemble`.

    Raises:
        InvalidInput: no model, or something else among them; k outside of 1 to their number.

    References:
        Horváth et al. (2022), arXiv:2106.06946, K-consensus aggregation.
    """

    def __init__(self, models: Iterable[nn.Module], k: int, *, average: Average = "logits") -> None:
        super().__init__()
        self.models = _members(models)
        self.k = checks.at_least("k", k, 1)
        checks.at_most("k", self.k, len(self.models))
        self.average = checks.one_of("average", average, ("logits", "probabilities"))

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits or probabilities (N, K), of the first members or of all.

        Raises:
            InvalidModel: the models differ in what they return.
        """
        first = _outputs(self.models[: self.k], x, self.average)
        choices = torch.stack([output.argmax(1) for output in first])
        answer, split = _mean(first), (choices != choices[0]).any(0)
        rows = split.nonzero().squeeze(1)
        if len(rows) and self.k < len(self.models):
            rest = _outputs(self.models[self.k :], x[rows], self.average)
            answer = answer.index_copy(0, rows, _mean([*(output[rows] for output in first), *rest]))
        return answer


def _members(models: Iterable[nn.Module]) -> nn.ModuleList:
    members = checks.several("models", models)
    if not all(isinstance(model, nn.Module) for model in members):
        shown = ", ".join(type(model).__name__ for model in members) or "none"
        raise InvalidInput(f"models must be one torch.nn.Module or more, got {shown}")
    return nn.ModuleList(members)


def _outputs(models: Iterable[nn.Module], x: Tensor, average: str) -> list[Tensor]:
    """Logits or probabilities (N, K) of each model, of one shape."""
    outputs = [model(x) for model in models]
    shapes = {tuple(output.shape) for output in outputs}
    if len(shapes) > 1:
        raise InvalidModel(f"the models of an ensemble must return logits of one shape, got {sorted(shapes)}")
    return outputs if average == "logits" else [output.softmax(1) for output in outputs]


def _mean(outputs: Sequence[Tensor]) -> Tensor:
    """Mean in one fixed order of additions."""
    total = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total / len(outputs)
