#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What `make` runs: set everything up inside the clone, start it, end it, test it.

This file must run on any Python 3, however old, to say in one sentence that it is too old: no annotations, no
f-strings, nothing imported before the check but `sys`. The work is in `tools/steps`.
"""

import sys

OLDEST = (3, 11)

if sys.version_info < OLDEST:
    sys.stderr.write(
        "Sealroom needs Python %d.%d or newer, and %s is %d.%d: "  # noqa: UP031
        "name a newer one, as in `make up PYTHON=python3.12`.\n"
        % (OLDEST + (sys.executable or "python3",) + sys.version_info[:2])  # noqa: RUF005
    )
    sys.exit(1)

from steps.main import main  # noqa: E402 - after the check

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
