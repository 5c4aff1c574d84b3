# SPDX-License-Identifier: BSD-3-Clause
"""torch datasets over sealed files; `sealroom.torch` is the same under the name that notebooks import.

| name | what it is |
|---|---|
| `SealedArray` | the rows of a `.npy` file |
| `SealedImageFolder` | a directory for each class, as torchvision's `ImageFolder` |
| `SealedShards` | tar shards whose members are grouped by key, as WebDataset's |
| `BlockShuffleSampler` | shuffles blocks, then samples inside windows of blocks; distributed and resumable |
| `data_loader` | a `DataLoader` with all of it put together |
| `collate`, `prefetch` | batches without a second copy; batches on the GPU ahead of time |

Invariants:

- What goes to a worker of a `DataLoader`, by `fork` or by `spawn`, is names and shapes, never data or keys.
- Headers of files are read strictly, and nothing is unpickled.
- An error of a worker reaches the training loop as the error that it is, with the file in its sentence.

Only this package imports torch; nothing else of Sealroom imports this package.
"""

from __future__ import annotations

from sealroom.datasets.torch.array import SealedArray
from sealroom.datasets.torch.images import SealedImageFolder
from sealroom.datasets.torch.loading import collate, data_loader, prefetch
from sealroom.datasets.torch.sampler import BlockShuffleSampler
from sealroom.datasets.torch.shards import SealedShards

__all__ = [
    "BlockShuffleSampler",
    "SealedArray",
    "SealedImageFolder",
    "SealedShards",
    "collate",
    "data_loader",
    "prefetch",
]
