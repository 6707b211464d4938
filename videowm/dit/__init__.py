"""The diffusion transformer and its flow, samplers and attention."""

from diffusers import ModelMixin

from videowm.dit.model import DiT

__all__ = ["DiT", "ModelMixin"]  # diffusers looks for ModelMixin beside a model that it loads by name
