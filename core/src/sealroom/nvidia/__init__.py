# SPDX-License-Identifier: BSD-3-Clause
"""Evidence of NVIDIA GPUs and switches."""
