# SPDX-License-Identifier: BSD-3-Clause
"""Set up a clone: the Python side and the Node side at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from steps import node_side, python_side
from steps.paths import Paths, alone


def everything(paths: Paths, *, development: bool) -> tuple[str, ...]:
    """Set everything up and return the proxy's command.

    Args:
        paths: The clone.
        development: Also what tests and checks need.
    """
    with alone(paths):
        python_side.uv(paths)
        # uv downloads while npm does: the one is busy with the network where the other is busy with the disk.
        with ThreadPoolExecutor(max_workers=1) as pool:
            front = pool.submit(_front_end, paths)
            python_side.sync(paths, *(python_side.DEVELOPMENT if development else python_side.RUNNING))
            python_side.compile_for_servers(paths)
            command = front.result()
        node_side.link_extension(paths)
    return command


def _front_end(paths: Paths) -> tuple[str, ...]:
    node = node_side.find_node(paths)
    command = node_side.install_proxy(paths, node)
    node_side.build_extension(paths, node)
    return command
