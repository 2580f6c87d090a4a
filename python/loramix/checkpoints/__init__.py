"""Base models: where their files are, what their tensors are called, views of their weights."""

from loramix.checkpoints.checkpoint import Checkpoint, Place, open_checkpoint
from loramix.checkpoints.lending import lent

__all__ = ["Checkpoint", "Place", "lent", "open_checkpoint"]
