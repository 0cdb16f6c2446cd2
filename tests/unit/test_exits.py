# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import signal

import pytest

from airflow_workpools.core.exits import explain_exit, signal_of


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (0, "ended normally (exit code 0)"),
        (1, "ended with an error (exit code 1)"),
        (42, "ended with an error (exit code 42)"),
        (126, "may not be executed"),
        (127, "was not found"),
        (137, "out of memory, or killed from outside (SIGKILL, exit code 137)"),
        (143, "it was asked to end (SIGTERM, exit code 143)"),
        (-9, "out of memory, or killed from outside (SIGKILL, exit code -9)"),
        (-15, "(SIGTERM, exit code -15)"),
        (-11, "compiled library (SIGSEGV, exit code -11)"),
        (-10, "ended by a signal (SIGUSR1, exit code -10)"),
        (-200, "ended by signal 200"),
        (255, "ended with an error (exit code 255)"),
    ],
)
def test_an_exit_code_is_explained(exit_code: int, words: str) -> None:
    assert words in explain_exit(exit_code)


def test_both_ways_of_writing_a_signal_mean_the_same() -> None:
    for each in signal.Signals:
        assert signal_of(-each) is each
        assert signal_of(128 + each) is each


def test_plain_exit_codes_stand_for_no_signal() -> None:
    assert [signal_of(code) for code in (0, 1, 2, 127, 128, 255)] == [None] * 6
