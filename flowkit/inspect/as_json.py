"""Reports as strict JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from flowkit.encoding import takes_unicode


def as_json(report: dict[str, Any]) -> str:
    """One object, indented. NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_strict(report), indent=2, ensure_ascii=not takes_unicode(), allow_nan=False)


def _strict(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _strict(inner) for key, inner in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(inner) for inner in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
