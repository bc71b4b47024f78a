"""A run in CI fails where a test is skipped for a reason that nobody expects."""

from __future__ import annotations

import os
import re

import pytest

# Why a test may be skipped in CI (regular expressions, searched in the reason). Any other skip fails the run: whatever
# those tests need, `.ci/run` or `make setup` should have brought.
EXPECTED_SKIPS = (
    r"head kit|build_head_kit",  # made by hand, see scripts/build_head_kit.py
    r"needs (espeak-ng and )?flite",  # a second synthesizer, for training data only
    r"\.\[voices\]",  # neural voices, for training data only
    r"\.\[align\]",  # a speech aligner, to build and measure only
    r"tensorboard",  # used where it is installed
    r"ai[-_]edge[-_]litert|face_landmarker\.task",  # the original of a converted network, to compare with
    r"9 GB of free disk",
    r"CUDA",
)


def pytest_sessionfinish(session, exitstatus) -> None:
    """Fail a run in CI that skipped what it should not have."""
    if os.environ.get("CI") and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        if unexpected_skips(session.config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter) -> None:
    """List unexpected skips; `-ra` lists all of them."""
    unexpected = unexpected_skips(terminalreporter.config)
    if unexpected and os.environ.get("CI"):
        terminalreporter.section("skipped, and not expected to be", red=True)
        for line in unexpected:
            terminalreporter.line(line)
        terminalreporter.line("Install what they need, or add the reason to EXPECTED_SKIPS in tests/plugins/skips.py.")


def unexpected_skips(config) -> list[str]:
    """`test: reason` of every skip whose reason is not among EXPECTED_SKIPS."""
    reports = config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    reasons = [(report.nodeid, str(report.longrepr[2])) for report in reports]
    return [f"{test}: {why}" for test, why in reasons if not re.search("|".join(EXPECTED_SKIPS), why)]
