"""Logs of other tools: fixed decimals, padded names, other columns, negative radii; what was printed proves less."""

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from oracles.halfspace import generator

from bounds import InvalidInput
from certify.smoothing import read_certification_log

HEADER = "idx\tlabel\tpredict\tradius\n"


@pytest.mark.parametrize("decimals", [2, 4, 9])
def test_fixed_decimals_prove_half_a_unit_less(tmp_path: Path, decimals: int):
    """Random radii as printed: none that is read exceeds the one before printing, as half of the printed ones do."""
    exact = 0.5 * torch.rand(2000, generator=generator(), dtype=torch.float64) ** 3
    file = tmp_path / "log.tsv"
    file.write_text(HEADER + "".join(f"{i}\t0\t0\t{r:.{decimals}f}\n" for i, r in enumerate(exact.tolist())))
    printed = read_certification_log(file, sigma=0.5).certificate.radius
    freed = read_certification_log(file, sigma=0.5, decimals=decimals).certificate.radius
    assert int((printed > exact).sum()) > 700
    assert (freed <= exact).all()
    assert (freed >= (printed - 0.51 * 10.0**-decimals).clamp(min=0)).all()


def test_decimals_and_significant_digits_differ_below_a_tenth(tmp_path: Path):
    """Four decimals of 0.0815 prove 0.08145; as four significant digits it would be read as 0.081495."""
    file = tmp_path / "log.tsv"
    for text, expected in {
        "0.0815": "0.08145",
        "0.08": "0.07995",
        "1e-4": "0.00005",
        "0.0000": "0",
        "2": "1.99995",
    }.items():
        file.write_text(f"{HEADER}0\t3\t3\t{text}\n")
        value = read_certification_log(file, sigma=0.25, decimals=4).certificate.radius.item()
        assert Fraction(value) <= Fraction(expected)
        assert value == pytest.approx(float(expected), abs=1e-15)
    file.write_text(f"{HEADER}0\t3\t3\t0.08151\n")
    with pytest.raises(InvalidInput, match=r"a radius has more than 4 decimals: 0\.08151"):
        read_certification_log(file, sigma=0.25, decimals=4)
    with pytest.raises(InvalidInput, match="decimals must be None where significant_digits is given, got 4"):
        read_certification_log(file, sigma=0.25, decimals=4, significant_digits=3)
    with pytest.raises(InvalidInput, match="decimals must be an integer of at least 1, got 0"):
        read_certification_log(file, sigma=0.25, decimals=0)


def test_padded_names_and_negative_radii(tmp_path: Path):
    """A radius below 0 is an abstention, whatever class was predicted, and never a certificate."""
    file = tmp_path / "log.tsv"
    file.write_text(
        "\ufeff idx\t label \tpredict \t radius\ttime \n0\t3 \t 3\t 0.5 \t1.5\n1\t3\t3\t-1.0\t2\n2\t3\t-1\t0\t2\n\n"
    )
    log = read_certification_log(file, sigma=0.25, decimals=4)
    assert log.certificate.abstained.tolist() == [False, True, True]
    assert log.certificate.radius.tolist() == pytest.approx([0.49995, 0.0, 0.0], abs=1e-15)
    assert log.certificate.label.tolist() == [3, 3, -1]
    assert log.seconds.tolist() == [1.5, 2.0, 2.0]


def test_radii_in_l_infinity_divided_by_commas(tmp_path: Path):
    file = tmp_path / "log.csv"
    file.write_text(",sample_idx,label,base_prediction,prediction,linf_radius,l2_radius\n0,10,3,2,3,0.01,0.55\n")
    for column, norm, radius in ((None, 2.0, 0.55), ("linf_radius", math.inf, 0.01), ("l2_radius", 2.0, 0.55)):
        log = read_certification_log(file, sigma=0.25, column=column)
        assert (log.certificate.norm, log.certificate.radius.item()) == (norm, radius)
        assert log.indices.tolist() == [10]
    file.write_text("idx\tlabel\tpredict\tlinf_radius\n0\t3\t3\t0.01\n")
    assert read_certification_log(file, sigma=0.25).certificate.norm == math.inf
    with pytest.raises(InvalidInput, match="no column l2_radius"):
        read_certification_log(file, sigma=0.25, column="l2_radius")
    with pytest.raises(InvalidInput, match="column must be one of radius, l2_radius, linf_radius, got 'l1'"):
        read_certification_log(file, sigma=0.25, column="l1")
