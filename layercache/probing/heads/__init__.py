"""The heads: G independent copies evaluated together."""

from layercache.probing.heads.spec import KINDS, HeadSpec

__all__ = ["KINDS", "HeadSpec"]
