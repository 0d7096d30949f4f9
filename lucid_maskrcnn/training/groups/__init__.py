"""Groups: the processes that train one model together, on one machine or on several."""

from .forked import ForkedGroup
from .launched import GROUP_BACKENDS, init_group
from .protocol import Group, GroupError, SingleGroup, exchange, share

__all__ = [
    "GROUP_BACKENDS",
    "ForkedGroup",
    "Group",
    "GroupError",
    "SingleGroup",
    "exchange",
    "init_group",
    "share",
]
