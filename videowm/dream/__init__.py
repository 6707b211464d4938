"""The world model as an environment of gymnasium."""

import gymnasium

ID = "videowm/Dream-v0"
if ID not in gymnasium.registry:
    gymnasium.register(
        ID, entry_point="videowm.dream.env:DreamEnv", vector_entry_point="videowm.dream.env:DreamVectorEnv"
    )
