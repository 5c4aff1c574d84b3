# SPDX-License-Identifier: BSD-3-Clause
"""Start attested notebook servers from JupyterHub, and show what they have proven.

`local` starts them on one machine, `service` is the hub service that keeps their state, `accounts` lets
people in where there is no identity provider. Imports nothing by itself: `launch` runs before anything is
trusted.
"""
