# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest
import sqlalchemy as sa

from tests.postgres import postgres_server


@pytest.mark.postgres
def test_a_server_is_made_serves_and_is_gone_afterwards() -> None:
    with postgres_server() as server:
        engine = sa.create_engine(server.create_database("one"))
        with engine.begin() as connection:
            connection.execute(sa.text("create table t (n int)"))
            connection.execute(sa.text("insert into t values (7)"))
        engine.dispose()
        copy = sa.create_engine(server.create_database("two", template="one"))
        with copy.connect() as connection:
            assert connection.execute(sa.text("select n from t")).scalar() == 7
        server.drop_database("two")
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
