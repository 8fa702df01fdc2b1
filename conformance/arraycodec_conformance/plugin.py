"""The pytest plugin: `--level`, and how many examples each backend was compared on."""

from __future__ import annotations

import math
from collections import Counter
from enum import IntEnum
from typing import Any

import pytest

EXAMPLES_PER_BACKEND = 100_000  # at level full and above


class Level(IntEnum):
    """How thorough a run is."""

    golden = 0
    default = 1
    full = 2
    exhaustive = 3


LEVEL = pytest.StashKey[Level]()
EXAMPLES: Counter[str] = Counter()  # "backend/implementation" -> examples compared


def pytest_addoption(parser: pytest.Parser) -> None:
    names = [level.name for level in Level]
    parser.addoption("--level", choices=names, default="default", help="how thorough the arraycodec suites are")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEVEL] = Level[str(config.getoption("--level"))]
    config.addinivalue_line("markers", "level(name): run this test at this level and above")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what the chosen level leaves out, so that it is counted and not reported as skipped."""
    level = config.stash[LEVEL]
    # A class may be marked too: its tests run where both marks let them.
    left_out = [i for i in items if any(Level[m.args[0]] > level for m in i.iter_markers("level"))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session")
def level(request: pytest.FixtureRequest) -> Level:
    """The level of this run."""
    return request.config.stash[LEVEL]


def example_count(level: Level, sharing: int) -> int:
    """How many examples one of `sharing` tests draws, so that together they reach the level's total."""
    return math.ceil(EXAMPLES_PER_BACKEND / sharing) if level >= Level.full else 6


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its counts to the process that started it."""
    handed: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if handed is not None:
        handed["arraycodec_examples"] = dict(EXAMPLES)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node: Any) -> None:
    """The counts of a worker are added to those of the others."""
    EXAMPLES.update(getattr(node, "workeroutput", {}).get("arraycodec_examples", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if EXAMPLES:
        terminalreporter.section("arraycodec: examples compared bit for bit, all equal")
        for name, count in sorted(EXAMPLES.items()):
            terminalreporter.write_line(f"{name:40} {count:>10,}")
