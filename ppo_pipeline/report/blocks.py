"""Data inside the page: JSON, compressed and written as base64, which no text in it can break out of."""

import base64
import gzip
import json
from typing import Any


def packed(value: Any) -> str:
    """Return `value` as base64 of gzipped JSON: letters, digits, + / = alone; the same text for the same value."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
