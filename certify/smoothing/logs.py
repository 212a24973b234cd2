"""Certification logs that other smoothing tools wrote."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bounds.errors import InvalidInput
from certify.results import Certificate
from certify.smoothing.noise import Gaussian


class CertificationLog(NamedTuple):
    """A log of N certified inputs: certificates, correct classes (N,), indices (N,) and seconds (N,)."""

    certificate: Certificate
    labels: Tensor
    indices: Tensor
    seconds: Tensor


def read_certification_log(path: Path | str, *, sigma: float, alpha: float = 1e-3) -> CertificationLog:
    """Read a tab-separated log with the columns idx, label, predict, radius and, optionally, time.

    This is the format of the code of Cohen et al. (2019) and of its many descendants. The radii are taken as
    printed: that code rounds them to the nearest of three digits, so that one may exceed what was proved by up
    to half a percent. Neither sigma nor alpha stands in a log.

    Args:
        path: the file.
        sigma: standard deviation of the noise that the log was made with, for the record.
        alpha: failure probability that the log was made with, for the record.

    Returns:
        The log; abstentions (-1 in the file) are a field of the certificate, time is NaN where not stated and
        may be written in seconds or as h:mm:ss.

    Raises:
        InvalidInput: the file has no such columns, or a value that is no number.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype={"time": str})
        columns = {name: table[name].to_numpy() for name in ("idx", "label", "predict", "radius")}
        index, labels, predicted = (torch.from_numpy(columns[name].astype(np.int64)) for name in list(columns)[:3])
        radius = torch.from_numpy(columns["radius"].astype(np.float64))
        times = [_seconds(text) for text in table["time"]] if "time" in table else [np.nan] * len(table)
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidInput(
            f"{path} is no certification log with columns idx, label, predict, radius: {error}"
        ) from error
    certificate = Certificate(
        label=predicted,
        radius=radius,
        abstained=predicted < 0,
        norm=2.0,
        alpha=alpha,
        subject=f"smoothed({Gaussian(sigma)})",
        method="smoothing",
    )
    return CertificationLog(certificate, labels, index, torch.tensor(times, dtype=torch.float64))


def _seconds(text: str) -> float:
    """Seconds from ``12.5`` or ``0:00:12.5``."""
    seconds = 0.0
    for part in str(text).split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
