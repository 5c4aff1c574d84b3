# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the hub: the files in `jupyterhub_config.d`, in the order of their names.

An operator's own file goes there too; the last one that sets a value wins.
"""

from pathlib import Path

for file in sorted((Path(__file__).parent / "jupyterhub_config.d").glob("*.py")):
    load_subconfig(str(file))
