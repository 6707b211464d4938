"""For diffusers, which loads this file with trust_remote_code=True."""

from videowm.vae.patch import PatchAutoencoder

__all__ = ["PatchAutoencoder"]
