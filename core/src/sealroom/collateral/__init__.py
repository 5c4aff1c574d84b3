# SPDX-License-Identifier: BSD-3-Clause
"""Endorsements and reference values from the makers' services."""
