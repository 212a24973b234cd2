"""Pictures of inputs and of changes, as small as PNG makes them."""

import base64
import io
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from certify.report.figures import FACTORS

if TYPE_CHECKING:
    from PIL import Image

SIDE = 112  # pixels, at most: larger ones show every second, third, ... of theirs
Bytes = npt.NDArray[np.uint8]

# Of a change in one channel: blue below, red above, and clear where there is none, whatever the page's background.
BELOW, ABOVE = (33, 102, 172), (202, 66, 51)


def as_picture(x: Tensor) -> Tensor | None:
    """One input as (H, W) or (H, W, 3) on the CPU in float64; None if it is no picture.

    Pictures are (H, W), (1, H, W), (3, H, W), (H, W, 1) and (H, W, 3), of at least two rows and columns.
    """
    shape = tuple(x.shape)
    if len(shape) == 3 and shape[0] in (1, 3):
        x, shape = x.movedim(0, -1), (*shape[1:], shape[0])
    if len(shape) not in (2, 3) or min(shape[:2]) < 2 or shape[2:] not in ((), (1,), (3,)):
        return None
    stride = math.ceil(max(shape[:2]) / SIDE)
    shown = x.detach().cpu().double()[::stride, ::stride]
    return shown.squeeze(-1) if shape[2:] == (1,) else shown


def picture_uri(shown: Tensor, low: float, high: float) -> str:
    """A picture of :func:`as_picture` as a data URI; ``low`` is black and ``high`` is white."""
    scaled = ((shown - low) / ((high - low) or 1.0)).nan_to_num().clamp(0, 1)
    return _uri(_levels(scaled))


def change_uri(difference: Tensor, span: float) -> tuple[str, int]:
    """A change as a data URI, and the factor by which it is amplified.

    It is clear where nothing changes, and the denser the larger the change: blue below and red above in one channel,
    in the direction of the change of colour in three.

    Args:
        difference: adversarial minus clean input, as :func:`as_picture` gives them.
        span: the difference between black and white in the pictures of the inputs.
    """
    finite = difference.nan_to_num()
    largest = float(finite.abs().max())
    factor = max((factor for factor in FACTORS if factor * largest <= span / 2), default=1)
    scaled = (factor * finite / (span / 2 or 1.0)).clamp(-1, 1)
    if scaled.ndim == 2:
        return _uri_of_palette(_levels((scaled + 1) / 2)), factor
    opacity = scaled.abs().amax(-1, keepdim=True)
    colors = (scaled / torch.where(opacity > 0, opacity, 1.0) + 1) / 2
    return _uri(_levels(torch.cat([colors, opacity], -1))), factor


def _levels(shares: Tensor) -> Bytes:
    return np.asarray((shares * 255).round().byte().numpy())


def _uri(pixels: Bytes) -> str:
    from PIL import Image

    return _encoded(Image.fromarray(pixels), {})


def _uri_of_palette(pixels: Bytes) -> str:
    """Levels from 0 to 255 in the colours of a change, of which 127 and 128 are the middle."""
    from PIL import Image

    image = Image.fromarray(pixels).convert("P")
    sides = [BELOW if level < 128 else ABOVE for level in range(256)]
    image.putpalette([part for color in sides for part in color])
    opacity = bytes(abs(2 * level - 255) - 1 for level in range(256))
    return _encoded(image, {"transparency": opacity})


def _encoded(image: "Image.Image", options: dict[str, bytes]) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
