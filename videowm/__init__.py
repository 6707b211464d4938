"""videowm: a video world-model scaling testbed."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """`from videowm import WorldModelPipeline` without making `import videowm` slow."""
    if name == "WorldModelPipeline":
        from videowm.pipeline import WorldModelPipeline

        return WorldModelPipeline
    raise AttributeError(f"module 'videowm' has no attribute {name!r}")
