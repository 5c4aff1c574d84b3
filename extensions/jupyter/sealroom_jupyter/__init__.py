# SPDX-License-Identifier: BSD-3-Clause
"""Shows in JupyterLab what a notebook server can prove about itself, and unlocks sealed datasets.

A Jupyter server extension (`app`) holds the proof and the keys; a JupyterLab extension and a widget show
them.
"""

from __future__ import annotations

__version__ = "0.1.0"


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "@sealroom/lab"}]


def _jupyter_server_extension_points() -> list[dict[str, object]]:
    # Imported here: kernels import this package for the widget and need no server.
    from sealroom_jupyter.app import Sealroom

    return [{"module": "sealroom_jupyter.app", "app": Sealroom}]
