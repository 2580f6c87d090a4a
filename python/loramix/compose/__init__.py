"""Adapters composed while a model runs, without merging them.

The room can be called: ``loramix.compose(pipe, adapters, mode=...)`` is `composing.compose`.
`functional` is the mathematics on plain arrays, `modes` and `guidance` are the rules; neither
needs torch, diffusers or PEFT, which `composing` uses once a pipeline is there.
"""

import sys
from types import ModuleType

from loramix.compose.accounts import Run as Run
from loramix.compose.accounts import Step as Step
from loramix.compose.composing import Composition as Composition
from loramix.compose.composing import compose as compose
from loramix.compose.families import FAMILIES as FAMILIES
from loramix.compose.guidance import GUIDANCE as GUIDANCE
from loramix.compose.guidance import AutoLora as AutoLora
from loramix.compose.guidance import Cfg as Cfg
from loramix.compose.guidance import Guidance as Guidance
from loramix.compose.guidance import Recentred as Recentred
from loramix.compose.modes import MODES as MODES
from loramix.compose.modes import Cm as Cm
from loramix.compose.modes import Composite as Composite
from loramix.compose.modes import KLora as KLora
from loramix.compose.modes import Loratorio as Loratorio
from loramix.compose.modes import Merge as Merge
from loramix.compose.modes import Mode as Mode
from loramix.compose.modes import MultLfg as MultLfg
from loramix.compose.modes import Switch as Switch
from loramix.compose.modes import WComposite as WComposite
from loramix.compose.modes import WSwitch as WSwitch
from loramix.compose.modes import importance_of as importance_of
from loramix.compose.pool import Candidate as Candidate
from loramix.compose.pool import Pool as Pool
from loramix.compose.saving import Saving as Saving


class _Room(ModuleType):
    """A module that is called as its function is, because both have one name."""

    __call__ = staticmethod(compose)


sys.modules[__name__].__class__ = _Room
