# SPDX-License-Identifier: Apache-2.0
"""Print the installed versions as pip constraints; ``make constraints`` writes them to constraints.txt."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distributions

LEFT_OUT = {"airflow-provider-workpools", "pip", "setuptools", "wheel"}
HEADER = """\
# Versions that `make venv` installs, known to work together with Apache Airflow 3.3.2.
# Written by `make constraints`, with Python 3.11. A version that no longer supports 3.10 carries a marker:
# on 3.10 pip chooses an older one.
"""


def requirement(distribution: Distribution) -> str:
    """Return the line that pins a distribution, where the pinned version can be installed at all."""
    pin = f"{distribution.name}=={distribution.version}"
    oldest = re.search(r">=?\s*3\.(\d+)", distribution.metadata.get("Requires-Python") or "")
    if oldest and int(oldest.group(1)) > 10:
        return f'{pin} ; python_version >= "3.{oldest.group(1)}"'
    return pin


def main() -> None:
    pinned = {found.name.lower(): found for found in distributions() if found.name not in LEFT_OUT}
    print(HEADER + "\n".join(requirement(pinned[name]) for name in sorted(pinned)))


if __name__ == "__main__":
    main()
