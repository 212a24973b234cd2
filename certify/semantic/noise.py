"""Search for noise that changes the class of an image, by signed steps along gradients."""

import torch
from torch import Tensor, nn

from bounds.checks import Limit
from bounds.numerics import converted_down
from certify.models import predictions
from certify.semantic.images import with_noise

STEPS = 10


def noise_changes(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, low: Limit, high: Limit) -> Tensor:
    """Whether noise within ``epsilon`` in l-infinity was found that changes the class of images (B, *D), (B,) bool.

    Steps grow shorter, from the whole radius on. What is found was run through the model.
    """
    most = converted_down(torch.tensor(epsilon, dtype=torch.float64, device=images.device), images.dtype)
    noise = torch.zeros_like(images)
    wrong = torch.zeros_like(labels, dtype=torch.bool)
    for step in range(STEPS if len(images) else 0):
        with torch.enable_grad():
            noise = noise.requires_grad_()
            logits = model(with_noise(images, noise, low, high))
            other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
            loss = (other - logits.gather(1, labels[:, None])[:, 0]).sum()
            (slopes,) = torch.autograd.grad(loss, noise)
        noise = (noise.detach() + 2 * most * (1 - step / STEPS) * slopes.sign()).clamp(-most, most)
        wrong |= predictions(model, with_noise(images, noise, low, high), len(images)) != labels
    return wrong
