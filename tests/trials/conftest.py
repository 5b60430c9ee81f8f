"""Trials: long proofs on real hosts, each run by its own `make trial-NAME` and not by `make test`."""

import pytest

from lab import Lab, unwind_on_signals


def pytest_configure(config):
    unwind_on_signals()


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        yield lab
