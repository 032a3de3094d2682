"""Amounts as people write them: `100m` of a processor, `128Mi` of memory.

cpu       0.5, 2, "100m" (thousandths of a core)
bytes     134217728, "128Mi", "2Gi", "500M": Ki Mi Gi Ti are powers of 1024, k M G T of 1000
"""

from __future__ import annotations

import re
from typing import Any

from mesh.errors import UsageError

_UNITS = {
    "": 1,
    "k": 1000,
    "K": 1000,
    "M": 1000**2,
    "G": 1000**3,
    "T": 1000**4,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}
_BYTES = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)(k|K|M|G|T|Ki|Mi|Gi|Ti|)B?")
_CORES = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(m?)")
CORES_MAX = 4096.0
BYTES_MAX = 1 << 60


def cores(where: str, value: Any) -> float:
    """An amount of processor, in cores.

    Raises:
        UsageError: naming the value.
    """
    found = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value)
    elif isinstance(value, str) and (match := _CORES.fullmatch(value)):
        found = float(match[1]) / (1000.0 if match[2] else 1.0)
    if found is None or not 0 <= found <= CORES_MAX:
        raise UsageError(f"{where}: {value!r:.80} is not an amount of processor", 'as in 0.5, 2 or "100m"')
    return found


def size(where: str, value: Any) -> int:
    """An amount of memory or storage, in bytes.

    Raises:
        UsageError: naming the value.
    """
    found = None
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and (match := _BYTES.fullmatch(value)):
        found = int(float(match[1]) * _UNITS[match[2]])
    if found is None or not 0 <= found <= BYTES_MAX:
        raise UsageError(
            f"{where}: {value!r:.80} is not an amount of bytes", 'as in 134217728, "128Mi", "2Gi"'
        )
    return found
