# SPDX-License-Identifier: Apache-2.0
"""How long the fault suite is, and where its random order comes from; both are the environment's to say."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass

FORM_VARIABLE, SEED_VARIABLE, ROUNDS_VARIABLE = (
    "WORKPOOLS_CHAOS",
    "WORKPOOLS_CHAOS_SEED",
    "WORKPOOLS_CHAOS_ROUNDS",
)


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of the suite."""

    tasks: Mapping[str, int]
    """How many tasks each queue gets in one round."""
    faults_of_each: int
    """How often each kind of fault happens in one round."""
    rounds: int
    seed: int

    @property
    def name(self) -> str:
        return f"{sum(self.tasks.values())} tasks, {self.rounds} round(s), seed {self.seed}"


FULL = {"critical": 80, "high": 170, "low": 250}
SHORT = {"critical": 40, "high": 80, "low": 120}


def form_of(environ: Mapping[str, str], marker_expression: str) -> Form:
    """Return the form that was asked for: the full one by ``pytest -m chaos``, else the short one.

    :raises ValueError: if the environment asks for what there is not.
    """
    name = environ.get(FORM_VARIABLE) or ("full" if marker_expression.strip() == "chaos" else "short")
    if name not in ("full", "short"):
        raise ValueError(f"{FORM_VARIABLE} must be full or short, not {name!r}")
    seed = environ.get(SEED_VARIABLE)
    return Form(
        tasks=FULL if name == "full" else SHORT,
        faults_of_each=3 if name == "full" else 1,
        rounds=int(environ.get(ROUNDS_VARIABLE) or 1),
        seed=int(seed) if seed else random.SystemRandom().randrange(1_000_000),
    )


def form(marker_expression: str) -> Form:
    return form_of(os.environ, marker_expression)
