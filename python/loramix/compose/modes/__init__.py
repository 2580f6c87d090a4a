"""The table of modes: one line each.

To add one: a file beside this one, a line here, its row in the table of ``tests/compose``.
"""

from collections.abc import Mapping
from types import MappingProxyType

from loramix.compose.modes.base import Mode as Mode
from loramix.compose.modes.base import Moment as Moment
from loramix.compose.modes.cm import Cm as Cm
from loramix.compose.modes.composite import Composite as Composite
from loramix.compose.modes.k_lora import KLora as KLora
from loramix.compose.modes.loratorio import Loratorio as Loratorio
from loramix.compose.modes.merge import Merge as Merge
from loramix.compose.modes.multlfg import MultLfg as MultLfg
from loramix.compose.modes.switch import Switch as Switch
from loramix.compose.modes.w_composite import WComposite as WComposite
from loramix.compose.modes.w_composite import importance_of as importance_of
from loramix.compose.modes.w_switch import WSwitch as WSwitch

_ALL: tuple[type[Mode], ...] = (
    Loratorio,
    Composite,
    Switch,
    Merge,
    WSwitch,
    WComposite,
    Cm,
    MultLfg,
    KLora,
)
MODES: Mapping[str, type[Mode]] = MappingProxyType({m.name: m for m in _ALL})
