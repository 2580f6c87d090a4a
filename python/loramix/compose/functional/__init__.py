"""Composition on plain arrays: predictions in, a prediction out.

NumPy arrays or torch tensors on any device; float16 and bfloat16 are computed in float32.  A
prediction is (batch, channels, *space), see `patches`.

>>> import numpy as np
>>> base, one, two = np.random.default_rng(0).normal(size=(3, 1, 4, 8, 8))
>>> far = divergence(base, [one, two], patch=4)
>>> weights = upsample(softmin(-far, tau=0.1), (8, 8), patch=4)
>>> aggregate([one, two], weights).shape
(1, 4, 8, 8)
"""

from loramix.compose.functional.bands import Bands as Bands
from loramix.compose.functional.bands import combine_bands as combine_bands
from loramix.compose.functional.bands import haar as haar
from loramix.compose.functional.bands import high_share as high_share
from loramix.compose.functional.bands import unhaar as unhaar
from loramix.compose.functional.blending import aggregate as aggregate
from loramix.compose.functional.blending import away as away
from loramix.compose.functional.blending import guide as guide
from loramix.compose.functional.blending import recentre as recentre
from loramix.compose.functional.masking import fit as fit
from loramix.compose.functional.packing import pack as pack
from loramix.compose.functional.packing import unpack as unpack
from loramix.compose.functional.patches import divergence as divergence
from loramix.compose.functional.patches import similarity as similarity
from loramix.compose.functional.patches import upsample as upsample
from loramix.compose.functional.selecting import select as select
from loramix.compose.functional.weighting import departure as departure
from loramix.compose.functional.weighting import entropy as entropy
from loramix.compose.functional.weighting import level as level
from loramix.compose.functional.weighting import normalise as normalise
from loramix.compose.functional.weighting import restrict as restrict
from loramix.compose.functional.weighting import softmin as softmin
from loramix.compose.functional.weighting import standardise as standardise
