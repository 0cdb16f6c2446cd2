# SPDX-License-Identifier: Apache-2.0
"""Every error of this package, as one tree.

::

    WorkpoolsError
    ├── NotFound                    404  the named thing does not exist
    ├── Conflict                    409  the state of things forbids it
    │   └── StateConflict                a job is not in a state that allows the change
    ├── InvalidInput                422  what was given is wrong; lists every problem at once
    │   ├── InvalidWorkPool              a work pool's definition
    │   ├── InvalidTemplate              a base job template
    │   └── InvalidJobVariables          a task's job variables
    ├── InfrastructureError
    │   ├── LaunchRejected               final: trying again would not help
    │   └── InfrastructureUnavailable    try again later
    ├── RequestRefused                   a worker's request that does not reach the store
    │   ├── TokenRefused            401
    │   ├── PoolRefused             403  not with this token, or not by workers that ask for jobs
    │   ├── TooLarge                413
    │   ├── VersionRefused          426
    │   └── TooManyAttempts         429
    ├── WorkerApiError
    │   ├── ApiRefused                   token, version or work pool are not what the API server takes
    │   │   ├── TokenNotTaken                until there is another one
    │   │   └── VersionNotTaken              final for this process
    │   └── ApiUnavailable               try again later
    │       └── ApiNotThere              something else answers at this address, or it can't be trusted
    └── ImageError                       an image could not be built, pulled or pushed

A message says what is wrong, with which thing, and what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class WorkpoolsError(Exception):
    """Base of every error raised on purpose by this package."""


class NotFound(WorkpoolsError):
    """The named thing does not exist."""


class Conflict(WorkpoolsError):
    """The present state forbids what was asked."""


class StateConflict(Conflict):
    """A job is not in a state from which the change is allowed."""


class InvalidInput(WorkpoolsError):
    """What was given is wrong.

    :param problems: one sentence per problem; all of them, not only the first.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))


class InvalidWorkPool(InvalidInput):
    """The definition of a work pool is wrong."""


class InvalidTemplate(InvalidInput):
    """A base job template is wrong."""


class InvalidJobVariables(InvalidInput):
    """The job variables do not fit the base job template."""


class InfrastructureError(WorkpoolsError):
    """The infrastructure could not do what was asked."""


class LaunchRejected(InfrastructureError):
    """The infrastructure refused the job for good; the message is the reason."""


class InfrastructureUnavailable(InfrastructureError):
    """The infrastructure does not answer now; trying again may help."""


class RequestRefused(WorkpoolsError):
    """What a worker asks of the API server is refused before it reaches the store."""


class TokenRefused(RequestRefused):
    """The token opens nothing (any more)."""


class PoolRefused(RequestRefused):
    """The work pool is not one of the token's, or none whose jobs workers can ask for."""


class TooLarge(RequestRefused):
    """The request is larger than what is taken."""


class VersionRefused(RequestRefused):
    """The versions of worker and API server are too far apart."""


class TooManyAttempts(RequestRefused):
    """Too many wrong tokens came from one address.

    :param retry_after_seconds: after which time it is looked at again.
    """

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class WorkerApiError(WorkpoolsError):
    """A worker could not say something to the API server."""


class ApiRefused(WorkerApiError):
    """The API server refuses this worker, until somebody changes something; the message says what to do."""


class TokenNotTaken(ApiRefused):
    """The worker's token opens nothing (any more); another one may."""


class VersionNotTaken(ApiRefused):
    """Worker and API server are of versions that do not understand each other."""


class ApiUnavailable(WorkerApiError):
    """The API server does not answer now, or not so that it can be understood; trying again may help."""


class ApiNotThere(ApiUnavailable):
    """What answers at this address is not the worker API, or its certificate is not trusted.

    Where it never was otherwise, the address or the settings of TLS are wrong.
    """


class ImageError(WorkpoolsError):
    """An image could not be built, pulled or pushed."""
