"""A browser, and pages of one model and of two."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.browser import chromium
from oracles.busy_page import BUSY
from oracles.compared import NOT, attacked, evaluation, proved, smoothed

from certify.comparison.comparison import compare


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("page") / "report.html"
    BUSY.to_html(target)
    return target


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(4)
    models = {}
    for name, scale in (("plain", 0.2), ("robust", 0.6)):
        radii = (scale * torch.rand(60, generator=generator, dtype=torch.float64)).tolist()
        radii[7] = NOT
        models[name] = evaluation(proved(radii), attacked([2 * r if r >= 0 else r for r in radii]), smoothed(radii))
    target = tmp_path_factory.mktemp("comparison") / "comparison.html"
    compare(models).to_html(target)
    return target
