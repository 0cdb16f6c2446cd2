# SPDX-License-Identifier: Apache-2.0
"""Where Airflow's API server reads the logs of tasks.

Its handler asks the *remote log* first, whatever the task's state: an object of the provider for S3, GCS, …, or none.
That object is the one place where logs can come from that are neither in its own log folder nor on a host that serves
them, without any configuration. Only reading goes this way: tasks and triggerers have the remote log of the Task SDK.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    LogStreams = tuple[list[str], list[Any]]
    """Messages about where logs came from, and the logs: one stream of lines each."""


class ReadLog(Protocol):
    """Reads the log of a try."""

    def __call__(
        self, relative_path: str, ti: Any, configured: Callable[[], LogStreams] | None
    ) -> LogStreams:
        """Return the log.

        :param relative_path: where it is, relative to any log folder.
        :param configured: reads it from the remote log that is configured, if there is one.
        :raises NotImplementedError: if there is none, and nothing else either.
        """
        ...


class RemoteLog:
    """What the handler takes for the remote log.

    :param configured: the one that is configured, if there is one; all but reading is left to it.
    """

    def __init__(self, configured: Any, read_log: ReadLog) -> None:
        self._configured = configured
        self._read_log = read_log

    def stream(self, relative_path: str, ti: Any) -> LogStreams:
        there_is_one = self._configured is not None
        configured = partial(self._read_configured, relative_path, ti) if there_is_one else None
        return self._read_log(relative_path, ti, configured)

    read = stream

    def _read_configured(self, relative_path: str, ti: Any) -> LogStreams:
        read = getattr(self._configured, "stream", None) or self._configured.read
        messages, logs = read(relative_path, ti)
        return list(messages or ()), list(logs or ())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._configured, name)


def read_logs_with(read_log: ReadLog) -> None:
    """Make the API server read logs of tasks this way; once, however often it is called."""
    from airflow import logging_config

    configured = logging_config.get_remote_task_log
    if hasattr(configured, "read_log"):
        return

    def get_remote_task_log() -> RemoteLog:
        return RemoteLog(configured(), read_log)

    get_remote_task_log.read_log = read_log  # type: ignore[attr-defined]
    logging_config.get_remote_task_log = get_remote_task_log
