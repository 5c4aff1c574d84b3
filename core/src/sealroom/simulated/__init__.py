# SPDX-License-Identifier: BSD-3-Clause
"""A simulated secure processor and GPU under development roots, for machines that have neither.

What this is: a root, an intermediate and chip certificates in AMD's form, and attestation reports of
version 2 to 5 for Milan, Genoa and Turin, byte for byte as a real processor lays them out; the same for
NVIDIA's Hopper, Blackwell and LS10, with reference values and OCSP answers (modules `gpu…`, which load only
when they are imported: they need lxml). What it is not: protection. Whoever holds a development root can make
any report, so its names say SIMULATED and its results never count as affirming.

Invariants:

- The private keys of the root stay in its directory (mode 0600), those of a processor in its own process.
- No object here prints a key.
- The broker never imports this package.
"""

from sealroom.simulated.processor import Processor
from sealroom.simulated.reports import ReportFields, sign_report
from sealroom.simulated.root import Root, create, load

__all__ = ["Processor", "ReportFields", "Root", "create", "load", "sign_report"]
