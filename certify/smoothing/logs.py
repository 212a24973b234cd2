"""Certification logs that other smoothing tools wrote."""

import csv
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bounds import checks
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
        InvalidInput: the file has no such columns, a line of another length, a class or index that is no
            integer, a radius that is no finite number of at least 0; alpha outside (0, 1).
    """
    checks.probability("alpha", alpha)
    try:
        rows = _rows(Path(path))
        index, labels, predicted = (
            torch.tensor([int(row[name]) for row in rows], dtype=torch.int64, device="cpu")
            for name in ("idx", "label", "predict")
        )
        radius = torch.tensor([float(row["radius"]) for row in rows], dtype=torch.float64, device="cpu")
        times = [_seconds(row.get("time", "nan")) for row in rows]
        if not (radius.isfinite() & (radius >= 0)).all():
            raise ValueError("a radius must be a finite number of at least 0")
        if not ((labels >= 0) & (predicted >= -1)).all():
            raise ValueError("a class must be at least 0, or -1 where the prediction abstains")
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
    return CertificationLog(certificate, labels, index, torch.tensor(times, dtype=torch.float64, device="cpu"))


def _rows(path: Path) -> list[dict[str, str]]:
    """The lines of the file by the names of its columns, each as long as the first."""
    header, *lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t")) or [[]]
    missing = {"idx", "label", "predict", "radius"} - set(header)
    if missing:
        raise KeyError(f"no column {', '.join(sorted(missing))}")
    return [dict(zip(header, line, strict=True)) for line in lines if line]


def _seconds(text: str) -> float:
    """Seconds from ``12.5`` or ``0:00:12.5``."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
