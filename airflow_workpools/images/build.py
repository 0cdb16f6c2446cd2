# SPDX-License-Identifier: Apache-2.0
"""Building an image, from what was asked for to its name."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_workpools.images import context
from airflow_workpools.images.recipe import Recipe, dockerfile
from airflow_workpools.images.wheel import provider_wheel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airflow_workpools.images.engine import BuildOptions, Engine, Tell


@dataclass(frozen=True, kw_only=True)
class ImageOrder:
    """What somebody wants an image of."""

    tag: str
    base_image: str
    dags_folder: Path
    requirements: tuple[Path, ...] = ()
    airflow_version: str
    provider_version: str
    executor: str


def gather(order: ImageOrder, environ: Mapping[str, str] | None = None) -> context.Files:
    """Return all files of the build but the Dockerfile, whatever the base is.

    :raises NotFound: if the DAG folder or a requirements file is missing.
    """
    wheel, content = provider_wheel()
    program = context.program()
    packages = {
        "in_image.py": program,
        wheel: content,
        "airflow.json": json.dumps({"apache-airflow": order.airflow_version}).encode(),
        **context.below("requirements", context.requirement_files(order.requirements)),
        **context.pip_files(os.environ if environ is None else environ),
        **context.lent_pip(),
    }
    return {
        "in_image.py": program,
        **context.below("packages", packages),
        **context.below("dags", context.dag_files(order.dags_folder)),
    }


def build(
    engine: Engine, order: ImageOrder, files: context.Files, *, options: BuildOptions, tell: Tell
) -> str:
    """Build the image, and return its id.

    :raises NotFound: if the base image can't be had.
    :raises BuildFailed: if a step fails.
    """
    base = engine.base(order.base_image, platform=options.platform, tell=tell)
    recipe = Recipe(
        base=base,
        airflow_version=order.airflow_version,
        provider_version=order.provider_version,
        executor=order.executor,
    )
    whole: context.Files = {**files, "Dockerfile": dockerfile(recipe).encode()}
    with context.packed(whole) as archive:
        return engine.build(archive, tag=order.tag, options=options, tell=tell)
