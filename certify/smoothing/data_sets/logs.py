"""Certification logs that other smoothing tools wrote."""

import csv
import math
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bounds import checks, clopper_pearson_lower
from bounds.errors import InvalidInput
from certify.results import Certificate
from certify.smoothing.noises.base import Gaussian


class CertificationLog(NamedTuple):
    """A log of N certified inputs: certificates, correct classes (N,), indices (N,) and seconds (N,)."""

    certificate: Certificate
    labels: Tensor
    indices: Tensor
    seconds: Tensor


class ClassCounts(NamedTuple):
    """Votes (N, K) of noise draws, int64, and correct classes (N,) of N inputs."""

    counts: Tensor
    labels: Tensor


# Names of columns in use, the one of Cohen et al. (2019) first, and the norms of radii.
ALIASES = {"idx": ("idx", "sample_idx"), "predict": ("predict", "prediction")}
RADII = {"radius": 2.0, "l2_radius": 2.0, "linf_radius": math.inf}


def read_certification_log(
    path: Path | str,
    *,
    sigma: float,
    alpha: float = 1e-3,
    significant_digits: int | None = None,
    decimals: int | None = None,
    column: str | None = None,
) -> CertificationLog:
    """Read a log with the columns idx, label, predict, radius and, optionally, time, divided by tabs or commas.

    This is the format of the code of Cohen et al. (2019) and of its many descendants. That code prints radii to
    nearest with three significant digits, so that one may exceed what was proved by up to half a percent; others print
    a fixed number of decimals. By default the radii are taken as printed, which reproduces published figures;
    ``significant_digits=3`` or ``decimals=4`` gives radii that were proved. A log contains neither sigma nor alpha.

    Args:
        path: the file. Names of columns may be padded with spaces; ``sample_idx`` and ``prediction`` are known, too.
        sigma: standard deviation of the noise that the log was made with, for the record.
        alpha: failure probability that the log was made with, for the record and for corrected figures. A largest
            radius above 3.82 sigma from 100,000 draws shows that it was more than 0.001.
        significant_digits: digits that the radii were rounded to; half a unit of the last one is subtracted, which
            never leaves more than the radius before printing. None takes radii as printed.
        decimals: digits behind the point that they were rounded to, instead; half a unit of the last is subtracted.
        column: that of the radii: radius or l2_radius in l_2, linf_radius in l-infinity. None takes the first of them
            that the file has.

    Returns:
        The log; abstentions (a class of -1 or a radius below 0 in the file) are a field of the certificate, with the
        radius 0; time is NaN where not stated and may be written in seconds or as h:mm:ss.

    Raises:
        InvalidInput: the file has no such columns, a line of another length, a class or index that is no
            integer, a radius that is no finite number or has more digits than stated; alpha outside (0, 1),
            significant_digits or decimals outside [1, 17] or both given, sigma not above 0, another column.
    """
    checks.probability("alpha", alpha)
    noise = Gaussian(sigma)
    if significant_digits is not None:
        checks.at_most("significant_digits", checks.at_least("significant_digits", significant_digits, 1), 17)
    if decimals is not None:
        checks.at_most("decimals", checks.at_least("decimals", decimals, 1), 17)
        if significant_digits is not None:
            raise InvalidInput(f"decimals must be None where significant_digits is given, got {decimals}: keep one")
    if column is not None:
        checks.one_of("column", column, tuple(RADII))
    try:
        rows = _read_rows(Path(path), *([column] if column else ()))
        name = column or next((name for name in RADII if rows and name in rows[0]), "radius")
        printed = _floats([_printed(row[name], None, None) for row in rows])
        if not printed.isfinite().all():
            raise ValueError("a radius must be a finite number")
        abstained = (_integers(rows, "predict") < 0) | (printed < 0)
        radius = _floats([_printed(row[name], significant_digits, decimals) for row in rows]).clamp(min=0.0)
        return _log(rows, torch.where(printed < 0, 0.0, radius), abstained, noise, alpha, RADII[name])
    except (KeyError, ValueError, TypeError, RuntimeError, InvalidOperation) as error:
        raise InvalidInput(
            f"{path} is no certification log with columns idx, label, predict, radius: {error}"
        ) from error


def read_vote_log(path: Path | str, *, sigma: float, n: int, alpha: float = 1e-3) -> CertificationLog:
    """Read a tab-separated log with the columns idx, label, predict, count and, optionally, time.

    This is the format of the code of Kumar et al. (2020), which logs the votes for the class that separate draws
    selected. The radii are computed from these, so they are free of the rounding of printed ones.

    Args:
        path: the file.
        sigma: standard deviation of the Gaussian noise that the log was made with.
        n: noise draws per input behind ``count``.
        alpha: failure probability of each radius.

    Returns:
        The log; rows abstain where the file does (-1) or the lower bound of the probability is at most 1/2.

    Raises:
        InvalidInput: as :func:`read_certification_log`; a count outside [0, n].

    References:
        Kumar et al. (2020), Curse of dimensionality on randomized smoothing, arXiv:2002.03239; Cohen et al. (2019).
    """
    checks.probability("alpha", alpha)
    n, noise = checks.at_least("n", n, 1), Gaussian(sigma)
    try:
        rows = _read_rows(Path(path), "count")
        counts = _integers(rows, "count")
        if not ((counts >= 0) & (counts <= n)).all():
            raise ValueError(f"a count must lie between 0 and n = {n}")
        p_lower = clopper_pearson_lower(counts, n, alpha=alpha)
        abstained = (_integers(rows, "predict") < 0) | ~(p_lower > 0.5)
        radius = torch.where(abstained, 0.0, noise.radius(p_lower))
        return _log(rows, radius, abstained, noise, alpha)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InvalidInput(f"{path} is no log with columns idx, label, predict, count: {error}") from error


def read_class_counts(path: Path | str) -> ClassCounts:
    """Read lines of K + 1 integers divided by spaces: the votes for each class, then the correct class.

    This is the format of the code of Jia et al. (2020) for top-k certificates. A class chosen from the same votes
    that bound its probability pays for the choice: alpha / K for each class, or separate draws.

    Raises:
        InvalidInput: no line, lines of other lengths, an entry that is no integer, a negative count, a correct class
            outside [0, K).

    References:
        Jia et al. (2020), Certified robustness for top-k predictions via randomized smoothing, arXiv:1912.09899.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        table = torch.tensor([[int(entry) for entry in line.split()] for line in lines if line.strip()], device="cpu")
        if table.ndim != 2 or table.shape[1] < 3 or (table < 0).any() or (table[:, -1] >= table.shape[1] - 1).any():
            raise ValueError("a line must hold at least two counts and a class among them")
    except (ValueError, RuntimeError) as error:
        raise InvalidInput(f"{path} is no table of class counts and correct classes: {error}") from error
    return ClassCounts(table[:, :-1], table[:, -1])


def _log(
    rows: list[dict[str, str]], radius: Tensor, abstained: Tensor, noise: Gaussian, alpha: float, norm: float = 2.0
) -> CertificationLog:
    """The log of these rows, with their radii and abstentions."""
    labels, predicted = _integers(rows, "label"), _integers(rows, "predict")
    if not ((labels >= 0) & (predicted >= -1)).all():
        raise ValueError("a class must be at least 0, or -1 where the prediction abstains")
    certificate = Certificate(
        label=predicted,
        radius=radius,
        abstained=abstained,
        norm=norm,
        alpha=alpha,
        subject=f"smoothed({noise})",
        method="smoothing",
    )
    times = _floats([_seconds(row.get("time", "nan")) for row in rows])
    return CertificationLog(certificate, labels, _integers(rows, "idx"), times)


def _read_rows(path: Path, *further: str) -> list[dict[str, str]]:
    """The lines of the file by the names of its columns, each as long as the first, without padding."""
    text = path.read_text(encoding="utf-8-sig").splitlines()
    delimiter = "\t" if not text or "\t" in text[0] else ","
    header, *lines = list(csv.reader(text, delimiter=delimiter)) or [[]]
    names = [name.strip() for name in header]
    for own, others in ALIASES.items():
        if own not in names:
            names = [own if name in others else name for name in names]
    missing = {"idx", "label", "predict", *further} - set(names)
    if missing:
        raise KeyError(f"no column {', '.join(sorted(missing))}")
    rows = [[entry.strip() for entry in line] for line in lines if any(entry.strip() for entry in line)]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _integers(rows: list[dict[str, str]], name: str) -> Tensor:
    """A column of integers, int64."""
    return torch.tensor([int(row[name]) for row in rows], dtype=torch.int64, device="cpu")


def _floats(values: Sequence[float]) -> Tensor:
    """Numbers as a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _printed(text: str, digits: int | None, decimals: int | None) -> float:
    """The number as printed, or at most the one that was rounded to nearest with so many digits or decimals."""
    if digits is None and decimals is None:
        return float(text)
    number = Decimal(text)
    if not number.is_finite() or number == 0:
        return float(number)
    last = number.adjusted() - digits + 1 if digits is not None else -(decimals or 0)  # power of ten of the last digit
    exponent = number.normalize().as_tuple().exponent
    if isinstance(exponent, int) and exponent < last:
        kind = f"{digits} significant digits" if digits is not None else f"{decimals} decimals"
        raise ValueError(f"a radius has more than {kind}: {text}")
    lowest = number - Decimal(5).scaleb(last - 1)
    nearest = float(lowest)
    return math.nextafter(nearest, -math.inf) if Decimal(nearest) > lowest else nearest


def _seconds(text: str) -> float:
    """Seconds from ``12.5`` or ``0:00:12.5``."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
