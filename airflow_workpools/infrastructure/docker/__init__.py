# SPDX-License-Identifier: Apache-2.0
"""The docker kind: jobs are containers of a Docker Engine, or of Podman behind its Docker-compatible socket.

Importing it needs no SDK: pools are defined, checked and shown where no engine is reached from.
"""

from airflow_workpools.infrastructure.docker.infrastructure import DockerInfrastructure

__all__ = ["DockerInfrastructure"]
