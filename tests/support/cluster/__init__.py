# SPDX-License-Identifier: BSD-3-Clause
"""A real Kubernetes of one node for tests, in namespaces of this machine.

`fixture.py` has the fixtures; `cluster.py` what a test does with the cluster; `build.py` and `images.py` make
what runs in it; `node.py` is the machine that it takes itself to be in; `guests.py`, `policies.py` and
`storage.py` stand in for what a real site has besides.
"""
