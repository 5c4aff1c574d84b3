# SPDX-License-Identifier: BSD-3-Clause
"""Write docs/reference/pod-rules.md from the table of rules that pods are checked with.

python tools/pod_rules_reference.py            write the page
python tools/pod_rules_reference.py --check    fail if the page is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sealroom_spawner.kube.checks import CODE_VARIABLES, ROUTE_VARIABLES, RUNTIME_PREFIXES
from sealroom_spawner.kube.expectation import ANNOTATION_PREFIXES, LABEL_PREFIXES, MOUNT_PATHS
from sealroom_spawner.kube.rules import RULES, Rule
from sealroom_spawner.kube.traits import KubeTraits

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "pod-rules.md"
HEAD = """\
<!-- Written by tools/pod_rules_reference.py from the code. Do not edit. -->

# Rules for pods

`SealedKubeSpawner` checks every pod with these rules: as it is sent, after every profile, option and hook;
as the API server keeps it; and at each poll as long as it runs. A pod for which one does not hold is not
created, or is deleted. The sentence names the field, the value and who set it.
[What the check does](../explanation/pod-check.md) says why.

"Can be given up" means that an operator may put the rule's id into `accepted_weaknesses`. The spawn page then
says so to everybody.
"""


def render() -> str:
    """Return the page."""
    parts = [HEAD, "\n## The rules\n"]
    parts += [_entry(rule) for rule in RULES.values()]
    parts.append("\n## What is listed\n")
    parts += [
        _listing("Annotations that change nothing", ANNOTATION_PREFIXES),
        _listing("Annotations that runtimes obey, by how they begin", RUNTIME_PREFIXES),
        _listing("Labels that may come besides", LABEL_PREFIXES),
        _listing("Directories that volumes may be mounted in", MOUNT_PATHS),
        _listing("Variables that load code (besides `LD_…`, `DYLD_…`, `BASH_FUNC_…`)", CODE_VARIABLES),
        _listing("Variables that lead connections", ROUTE_VARIABLES),
    ]
    parts.append("\n## Settings\n\nOf `c.SealedKubeSpawner`; no profile sets any of them.\n\n")
    traits = KubeTraits.class_traits(config=True)
    parts += [_setting(name, trait) for name, trait in sorted(traits.items())]
    return "".join(parts)


def _entry(rule: Rule) -> str:
    where = f"`{rule.path}`" if rule.path else "the whole manifest"
    given_up = "yes" if rule.waivable else "no"
    return (
        f"\n(pod-rule-{rule.id.replace('.', '-')})=\n### `{rule.id}`\n\n{rule.demand}\n\n"
        f"- Where: {where}.\n- Otherwise: {rule.reason}\n- Can be given up: {given_up}.\n"
    )


def _listing(title: str, names: object) -> str:
    assert isinstance(names, tuple | frozenset)
    ordered = names if isinstance(names, tuple) else sorted(names)
    return f"\n**{title}:** {', '.join(f'`{name}`' for name in ordered)}.\n"


def _setting(name: str, trait: object) -> str:
    default = getattr(trait, "default_value", None)
    plain = (str, int, float, bool)
    shown = f" Default: `{default!r}`." if isinstance(default, plain) and default != "" else ""
    return f"- `{name}`: {getattr(trait, 'help', '')}{shown}\n"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="Write docs/reference/pod-rules.md from the code.")
    parser.add_argument("--check", action="store_true", help="fail if the page is stale")
    arguments = parser.parse_args()
    page = render()
    if arguments.check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
            print(
                "docs/reference/pod-rules.md is stale: run python tools/pod_rules_reference.py",
                file=sys.stderr,
            )
            return 1
        return 0
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
