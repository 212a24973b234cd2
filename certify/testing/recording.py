"""Numbers of assertions, kept with the test that made them: ``--junitxml`` writes them as properties."""

from collections.abc import Iterator

import pytest

_running: list[pytest.Item] = []  # the test at work, and those around it where one runs pytest itself


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Remember the test at work, in each process of its own where pytest-xdist shares them out."""
    _running.append(item)
    try:
        return (yield)
    finally:
        _running.pop()


def record(assertion: str, **numbers: float | str | None) -> None:
    """Keep what an assertion found, whether it holds or not, as ``certify.1.radius`` and so on.

    The number counts the assertions of one test. Without pytest, nothing happens.
    """
    if not _running:
        return
    properties = _running[-1].user_properties
    count = 1 + sum(name.startswith("certify.") and name.endswith(".assertion") for name, _ in properties)
    kept = {"assertion": assertion} | {name: value for name, value in numbers.items() if value is not None}
    properties += [(f"certify.{count}.{name}", value) for name, value in kept.items()]
