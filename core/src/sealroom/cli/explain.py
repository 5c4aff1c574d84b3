# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom explain`: what the broker would decide on a dataset now, in a terminal of the notebook server."""

from __future__ import annotations

import click

from sealroom.cli.common import EXIT_OK, EXIT_REFUSED, json_option, output
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.show_access import ordered, outcome_word, verdict


@click.command(name="explain")
@click.argument("dataset")
@click.option("--purpose", default="", metavar="DUO:…", help="For this purpose; for any without it.")
@json_option
def command(dataset: str, purpose: str) -> int:
    """Show what stands between you, in this server, and DATASET. Nothing is released.

    Runs in a terminal of the notebook server. Exit codes: 0 the broker would release it, 1 it would not,
    2 nobody could say.
    """
    client = AgentClient.from_environment()
    try:
        info = client.explain(dataset, purpose)
    finally:
        client.close()
    if output().json:
        output().result(info.model_dump(mode="json"))
    else:
        rows = [(outcome_word(rule), rule.sentence, rule.code) for rule in ordered(info.rules)]
        output().say(verdict(info))
        if rows:
            output().table("", ("outcome", "rule", "code"), rows)
        if not info.allowed:
            if info.ask:
                output().say(f"Whom to ask: {info.ask}")
            output().say(f"To ask for access: sealroom ask {info.dataset} --reason TEXT")
    return EXIT_OK if info.allowed else EXIT_REFUSED
