"""For diffusers, which loads this file with trust_remote_code=True."""

from videowm.dit import DiT

__all__ = ["DiT"]
