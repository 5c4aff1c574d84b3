# SPDX-License-Identifier: BSD-3-Clause
"""The key broker protocol: messages, binding, evidence and JWE without IO, and clients that speak HTTP.

`client.KbsClient` is what an attested guest uses, `admin.OwnerClient` what a data owner uses; the broker uses
everything else. The import of this package loads none of them.
"""
