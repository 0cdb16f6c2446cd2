# SPDX-License-Identifier: Apache-2.0
"""The token that a worker shows: when it is looked for another, and what people are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_workpools.errors import InvalidInput, TokenNotTaken
from airflow_workpools.worker.credential import REFUSED_SECONDS, Credential, read_token

REFUSAL = TokenNotTaken("token 1 was revoked; make another one")


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("one\n")
    return path


def test_a_token_that_is_taken_is_shown_whatever_is_in_its_file(file: Path) -> None:
    credential = Credential("one", file)
    file.write_text("two")
    assert credential.to_show() == "one"


def test_one_that_was_refused_is_shown_again_after_a_while_by_one_caller(file: Path) -> None:
    clock = Clock()
    credential = Credential("one", file, clock)
    credential.refused("one", REFUSAL)
    with pytest.raises(TokenNotTaken, match=f"^{REFUSAL}, and put it into {file}: it is read again, without"):
        credential.to_show()
    clock.seconds = REFUSED_SECONDS
    assert credential.to_show() == "one"
    with pytest.raises(TokenNotTaken):
        credential.to_show()
    credential.taken("one")
    assert credential.to_show() == "one"


def test_another_one_is_taken_at_once(file: Path) -> None:
    credential = Credential("one", file, Clock())
    credential.refused("one", REFUSAL)
    file.write_text("two")
    assert credential.to_show() == "two"
    # What comes late of the first says nothing of the second.
    credential.refused("one", REFUSAL)
    assert credential.to_show() == "two"
    credential.refused("two", REFUSAL)
    with pytest.raises(TokenNotTaken):
        credential.to_show()


@pytest.mark.parametrize("problem", ["gone", "", "two words"])
def test_a_file_without_a_token_is_told_of_and_looked_at_again(file: Path, problem: str) -> None:
    credential = Credential("one", file, Clock())
    credential.refused("one", REFUSAL)
    file.unlink()
    if problem != "gone":
        file.write_text(problem)
    with pytest.raises(TokenNotTaken, match=rf"which is read again \(.*{file}"):
        credential.to_show()
    file.write_text("two")
    assert credential.to_show() == "two"


def test_without_a_file_the_worker_has_to_be_started_anew() -> None:
    credential = Credential("one", None, Clock())
    credential.refused("one", REFUSAL)
    with pytest.raises(TokenNotTaken, match=f"^{REFUSAL}, and start the worker with it$"):
        credential.to_show()


def test_a_token_is_in_no_text_of_it(file: Path) -> None:
    file.write_text("s3cr3t")
    assert "s3cr3t" not in repr(Credential(read_token(file), file))
    file.write_text("two s3cr3t")
    with pytest.raises(InvalidInput) as refused:
        read_token(file)
    assert "s3cr3t" not in str(refused.value)
