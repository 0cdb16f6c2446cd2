# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools image build``: an image that tasks can run in."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from airflow_workpools.cli.image_questions import Questions
from airflow_workpools.cli.output import reads, writes
from airflow_workpools.errors import InvalidInput, NotFound, WorkpoolsError
from airflow_workpools.images.build import ImageOrder, build, gather
from airflow_workpools.images.engine import BuildFailed, BuildOptions, Engine, Login, require_sdk
from airflow_workpools.images.recipe import checked_tag, official_image

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from types import TracebackType

_STEP = re.compile(r"Step \d+/\d+ : ")


@dataclass(frozen=True, kw_only=True)
class _Wishes:
    order: ImageOrder
    options: BuildOptions
    push: bool
    registry_conn_id: str | None
    pools: Sequence[str]


@reads
def build_image(args: Namespace) -> None:
    """Build an image, push it and make it the default of work pools, as far as that is asked for."""
    require_sdk()
    wishes = _wishes(args)
    tag = wishes.order.tag
    files = gather(wishes.order)
    if wishes.pools:
        # A pool that can't have it should be known of now, and not when the image is built.
        _check_pools(wishes.pools, tag)
    login = _login(wishes.registry_conn_id) if wishes.registry_conn_id else None
    with Engine.reached() as engine, _Progress() as progress:
        if login:
            engine.log_in(login)
        progress.tell(f"Building {tag} on {wishes.order.base_image}")
        try:
            image = build(engine, wishes.order, files, options=wishes.options, tell=progress.tell)
        except BuildFailed as failed:
            progress.show(failed.lines)
            raise
        progress.say(f"Image {tag} built: {image}")
        if wishes.push:
            progress.tell(f"Pushing {tag}")
            progress.say(f"Image {tag} pushed: {engine.push(tag, tell=progress.tell)}")
    if wishes.pools:
        _set_default(args, wishes.pools, tag)


def _wishes(args: Namespace) -> _Wishes:
    """Return what is wanted: what the command line says, and on a terminal what the person there does."""
    from airflow import __version__ as airflow_version
    from airflow.configuration import conf

    from airflow_workpools import __version__ as provider_version

    folder = Path(args.dags_folder or conf.get("core", "dags_folder")).expanduser()
    questions = Questions() if sys.stdin.isatty() and not args.no_prompt else None
    order = ImageOrder(
        tag=checked_tag(_tag(args.tag, questions)),
        base_image=args.base_image or official_image(airflow_version, sys.version_info[:2]),
        dags_folder=folder,
        requirements=tuple(Path(path) for path in args.requirements or ()),
        airflow_version=airflow_version,
        provider_version=provider_version,
        executor=conf.get("core", "executor"),
    )
    wishes = _Wishes(
        order=order,
        options=BuildOptions(platform=args.platform, network=args.network, no_cache=args.no_cache),
        push=args.push,
        registry_conn_id=args.registry_conn_id,
        pools=args.set_default or (),
    )
    return _asked(wishes, questions, has_base=bool(args.base_image)) if questions else wishes


def _tag(given: str | None, questions: Questions | None) -> str:
    if given:
        return given
    if questions is None:
        raise InvalidInput("name the image with --tag, for example --tag registry.example.com/team/dags:1")
    return questions.tag()


def _asked(wishes: _Wishes, questions: Questions, *, has_base: bool) -> _Wishes:
    """Ask for what the command line leaves open."""
    order = wishes.order
    if not has_base:
        order = replace(order, base_image=questions.base_image(order.base_image))
    if not order.requirements:
        order = replace(order, requirements=questions.requirements(order.dags_folder))
    push = wishes.push or questions.push(order.tag)
    conn_id = wishes.registry_conn_id or (questions.registry_conn_id() if push else None)
    pools = wishes.pools or questions.pools(_pools_with_images())
    return replace(wishes, order=order, push=push, registry_conn_id=conn_id, pools=pools)


def _pools_with_images() -> list[str]:
    """Return the work pools that can have a default image; none where no database tells of them."""
    from sqlalchemy.exc import SQLAlchemyError

    from airflow_workpools.cli.context import opened
    from airflow_workpools.store.default_images import pools_with_images

    try:
        with opened() as context:
            return pools_with_images(context.pools)
    except (WorkpoolsError, SQLAlchemyError):
        return []


def _login(conn_id: str) -> Login:
    from airflow_workpools.store.airflow_connections import airflow_connections

    connection = airflow_connections([conn_id]).get(conn_id)
    if connection is None:
        raise NotFound(
            f"there is no Airflow connection {conn_id!r}; --registry-conn-id needs one of type docker"
        )
    missing = [field for field in ("host", "login", "password") if not connection.get(field)]
    if missing:
        raise InvalidInput(
            f"the Airflow connection {conn_id!r} has no {' and no '.join(missing)}; a registry needs host, login "
            "and password"
        )
    port = f":{connection['port']}" if connection.get("port") else ""
    return Login(
        registry=f"{connection['host']}{port}", username=connection["login"], password=connection["password"]
    )


def _check_pools(names: Sequence[str], image: str) -> None:
    from airflow_workpools.cli.context import opened
    from airflow_workpools.store.default_images import check_default_image

    with opened() as context:
        for name in names:
            check_default_image(context.editor, name, image)


def _set_default(args: Namespace, names: Sequence[str], image: str) -> None:
    from airflow_workpools.cli.context import opened
    from airflow_workpools.store.default_images import set_default_image

    # Only this changes anything of Airflow's: an image is built where there is no database, too.
    @writes("workpools_image_build")
    def set_all(_: Namespace) -> None:
        with opened() as context:
            for name in names:
                set_default_image(context.editor, name, image)

    set_all(args)
    for name in names:
        print(f"Jobs of work pool {name!r} run in {image} from now on")


class _Progress:
    """Shows what goes on: on a terminal in one line that changes, elsewhere one line per step."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._step = ""

    def __enter__(self) -> _Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()

    def tell(self, line: str) -> None:
        """Show a line of the engine's."""
        line = line.strip()
        if not line:
            return
        if step := _STEP.match(line):
            self._step = line
        if self._status:
            detail = "" if step or not self._step else f"{self._step[:60]}  "
            self._status.update(escape(f"{detail}{line[:120]}"))
        elif step or not self._step:
            self._console.print(escape(line))

    def show(self, lines: Sequence[str]) -> None:
        """Show lines that are worth reading whole."""
        for line in lines:
            self._console.print(escape(line.rstrip()))

    def say(self, result: str) -> None:
        """Print a result; what comes next has its own steps."""
        self._step = ""
        print(result)
