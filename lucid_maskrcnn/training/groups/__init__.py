"""Groups: the processes that train one model together, on one machine or on several."""

from .forked import ForkedGroup
from .launched import init_group
from .protocol import Group, GroupError, SingleGroup, exchange, exchange_values, share, share_value

__all__ = [
    "ForkedGroup",
    "Group",
    "GroupError",
    "SingleGroup",
    "exchange",
    "exchange_values",
    "init_group",
    "share",
    "share_value",
]
