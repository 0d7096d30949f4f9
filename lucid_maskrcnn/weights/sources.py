"""Where :func:`locate` was before it moved to ``registry``."""

from .registry import find_by_name as matching
from .registry import locate

__all__ = ["locate", "matching"]
