"""Pruned copies of a network, for studies of sparsity against robustness."""

import copy

import torch
from torch import nn

from bounds import checks
from bounds.errors import InvalidInput

PRUNED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def pruned(model: nn.Module, share: float) -> nn.Module:
    """A copy of a network in which a share of the weights of each layer, those of least magnitude, is 0.

    Weights of linear layers and convolutions are pruned, biases and normalisation are not; nothing is trained after.

    Args:
        model: with at least one such layer.
        share: from 0 to below 1; the number of weights is rounded down.

    Raises:
        InvalidInput: a bad share, a network without such a layer.

    References:
        Han, Pool, Tran, Dally (2015), Learning both weights and connections, arXiv:1506.02626; Guo, Zhang, Zhang, Chen
        (2018), Sparse DNNs with improved adversarial robustness, arXiv:1810.09619, for the question.
    """
    if not checks.nonnegative("share", share) < 1:
        raise InvalidInput(f"share must lie in [0, 1), got {share}: a layer of zeros predicts nothing")
    network = copy.deepcopy(model)
    layers = [layer for layer in network.modules() if isinstance(layer, PRUNED)]
    if not layers:
        raise InvalidInput(f"{type(model).__name__} holds no linear layer or convolution: there is nothing to prune")
    with torch.no_grad():
        for layer in layers:
            weight = layer.weight
            least = weight.abs().flatten().argsort(stable=True)[: int(share * weight.numel())]
            weight.view(-1)[least] = 0
    return network
