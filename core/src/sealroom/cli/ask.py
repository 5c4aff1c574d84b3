# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom ask`: ask a dataset's owner for access, in a terminal of the notebook server."""

from __future__ import annotations

import click

from sealroom.cli.common import json_option, output
from sealroom.datasets import api
from sealroom.datasets.show_access import request_text


@click.command(name="ask")
@click.argument("dataset")
@click.option("--reason", required=True, metavar="TEXT", help="Why, in your own words, for the owner.")
@click.option(
    "--purpose", metavar="DUO:…", help="What for; may be left out where the dataset's terms leave one only."
)
@click.option("--until", metavar="WHEN", help="How long: 2027-03-31, or +30d, +12h, +2w.")
@json_option
def command(dataset: str, reason: str, purpose: str | None, until: str | None) -> None:
    """Ask the owner of DATASET for access.

    Runs in a terminal of the notebook server. The owner sees who you are, what this server has proven and
    which environment it runs.
    """
    request = api.request(dataset, reason=reason, purpose=purpose, until=until)
    if output().json:
        output().result(request.info.model_dump(mode="json"))
        return
    output().say(request_text(request.info))
    output().say("The answer is shown in the Sealroom panel, and by sealroom.requests() in a notebook.")
