"""The table of guidance: one line each."""

from collections.abc import Mapping
from types import MappingProxyType

from loramix.compose.guidance.autolora import AutoLora as AutoLora
from loramix.compose.guidance.base import Guidance as Guidance
from loramix.compose.guidance.base import Side as Side
from loramix.compose.guidance.cfg import Cfg as Cfg
from loramix.compose.guidance.recentred import Recentred as Recentred

_ALL: tuple[type[Guidance], ...] = (Cfg, Recentred, AutoLora)
GUIDANCE: Mapping[str, type[Guidance]] = MappingProxyType({g.name: g for g in _ALL})
