"""Fixtures of the whole suite."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data beside the repository; what needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no reference data in ../shared/data beside the repository")
    return SHARED
