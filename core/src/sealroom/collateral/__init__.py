# SPDX-License-Identifier: BSD-3-Clause
"""Endorsements and reference values from the makers' services, kept in a directory.

What this is: AMD's endorsement certificates and revocation lists, NVIDIA's reference integrity manifests and
OCSP answers: fetched, verified, stored, carried to machines without a network. What this is not: a judgement
of evidence; what is found here is given to `sealroom.snp` and `sealroom.nvidia`, which verify it again.

| module | does |
|---|---|
| `layout` | names of entries in a store |
| `store` | the directory: whole files or none, several processes, full disks |
| `check` | whether an entry is authentic, by its signatures |
| `kds`, `nvidia` | fetch from AMD's and NVIDIA's services |
| `resolver` | gives what a report needs: from the evidence, the store, or the network if allowed |
| `bundle` | a store as one file, for machines without a network |

Nothing is loaded before it is asked for: importing this package brings in no HTTP.
"""
