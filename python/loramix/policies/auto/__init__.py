"""The policy ``auto``: what adapters do to each other decides, and says so in numbers."""

from loramix.policies.auto.policy import Auto as Auto
from loramix.policies.auto.recognise import Recognised as Recognised
from loramix.policies.auto.recognise import recognise as recognise
