# SPDX-License-Identifier: BSD-3-Clause
"""Keep secrets wrapped: whoever reads the database or its backup learns no dataset key.

`KeyWrap` is what the rest of the broker knows. Who keeps the key-encryption key is a matter of the
configuration: a file (`file`), a token that is reached by PKCS#11 (`token`), or the transit engine of Vault
(`transit`); `chain` puts them together, while everything moves from one to another.
"""

from __future__ import annotations

from sealroom_broker.wrap.base import KeyProvider, KeyWrap
from sealroom_broker.wrap.chain import Chain, create_kek, open_kek
from sealroom_broker.wrap.file import FileKeyWrap, new_key, read_keys, write_keys
from sealroom_broker.wrap.settings import FileKek, Kek, Pkcs11Kek, VaultKek

__all__ = [
    "Chain",
    "FileKek",
    "FileKeyWrap",
    "Kek",
    "KeyProvider",
    "KeyWrap",
    "Pkcs11Kek",
    "VaultKek",
    "create_kek",
    "new_key",
    "open_kek",
    "read_keys",
    "write_keys",
]
