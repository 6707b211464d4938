"""For diffusers, which loads this file with trust_remote_code=True."""

from videowm.pipeline import WorldModelPipeline

__all__ = ["WorldModelPipeline"]
