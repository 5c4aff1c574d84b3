# SPDX-License-Identifier: BSD-3-Clause
"""The steps of `make up` and its companions. Standard library only: they make what everything else needs."""
