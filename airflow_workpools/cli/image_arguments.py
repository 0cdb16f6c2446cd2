# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``airflow workpools image build``."""

from __future__ import annotations

from airflow.cli.cli_config import Arg

BUILD_ARGS = (
    Arg(("-t", "--tag"), metavar="NAME:TAG", help="Name of the image, with its registry if it is pushed"),
    Arg(
        ("--base-image",),
        metavar="IMAGE",
        help="Image to build on (default: the official one with this Airflow and Python)",
    ),
    Arg(("--dags-folder",), metavar="DIR", help="Folder with the DAG files (default: [core] dags_folder)"),
    Arg(
        ("-r", "--requirements"),
        metavar="FILE",
        action="append",
        help="File of requirements to install, as pip reads it; may be repeated",
    ),
    Arg(("--push",), action="store_true", help="Push the image to its registry"),
    Arg(
        ("--registry-conn-id",),
        metavar="CONN_ID",
        help="Airflow connection of type docker to log in to a registry with (default: as docker login did)",
    ),
    Arg(
        ("--set-default",),
        metavar="POOL",
        action="append",
        help="Let jobs of this work pool run in the image; may be repeated",
    ),
    Arg(("--platform",), metavar="OS/ARCH", help="Platform to build for, for example linux/arm64"),
    Arg(("--network",), metavar="MODE", help="Network of the build, as in docker build; for example host"),
    Arg(
        ("--no-cache",),
        action="store_true",
        help="Build everything anew; newer requirements may be found",
    ),
    Arg(("--no-prompt",), action="store_true", help="Ask nothing, also on a terminal"),
)
