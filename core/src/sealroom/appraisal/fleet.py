# SPDX-License-Identifier: BSD-3-Clause
"""Do the GPUs and NVSwitches of one server belong together?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from sealroom.nvidia import Architecture, VerifiedDevice

_SWITCH_PDIS: Final = 22
"""Opaque field: in a GPU's report the switches at its links, in a switch's report its own id."""
_PDI_SIZE: Final = 8


def what_does_not_fit(devices: Sequence[VerifiedDevice]) -> str:
    """Say what does not fit together, in one sentence; empty if everything does.

    Args:
        devices: All GPUs and switches of the server.
    """
    gpus = [one for one in devices if one.architecture is not Architecture.LS10]
    switches = [one for one in devices if one.architecture is Architecture.LS10]
    twice = [ueid for ueid, count in Counter(str(one.ueid) for one in devices).items() if count > 1]
    if twice:
        return "One and the same chip stands in the evidence twice, as if it were two."
    for what, values in (
        ("architectures", {str(one.architecture) for one in gpus}),
        ("modes", {one.report.feature or "an unnamed one" for one in gpus}),
        ("drivers", {one.report.driver_version for one in gpus}),
    ):
        if len(values) > 1:
            return f"The GPUs of one server have different {what}: {', '.join(sorted(values))}."
    protected = any(one.report.feature == "PPCIE" for one in gpus)
    if protected and not switches:
        return "The GPUs run in protected PCIe mode, and no switch between them has proven itself."
    if switches and not protected:
        return "A switch has proven itself, and no GPU says that it runs in protected PCIe mode."
    return _strange_switch(gpus, switches)


def _strange_switch(gpus: Sequence[VerifiedDevice], switches: Sequence[VerifiedDevice]) -> str:
    """Compare the switches that GPUs see at their links with those that proved themselves."""
    known = {pdi for switch in switches for pdi in _pdis(switch)}
    seen = {pdi for gpu in gpus for pdi in _pdis(gpu)} if switches else set()
    if seen - known:
        return "A GPU is linked to a switch that has not proven itself."
    return ""


def _pdis(device: VerifiedDevice) -> set[bytes]:
    field = device.report.opaque.get(_SWITCH_PDIS, b"")
    pdis = (field[at : at + _PDI_SIZE] for at in range(0, len(field), _PDI_SIZE))
    # GPUs write an id in the other byte order than switches do; both are brought to one.
    return {min(pdi, pdi[::-1]) for pdi in pdis if any(pdi)}
