"""The published adaptive composition: `Published`, and what it is made of."""

from loramix.policies.published.policy import Published as Published
