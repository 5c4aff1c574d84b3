# SPDX-License-Identifier: BSD-3-Clause
"""The audit log: what an entry says, the Merkle tree over the entries, signed checkpoints, and their check.

Readers need `entry`, `note`, `tlog` and `verify`, which touch no files; `log` is the writer on a file system.
"""
