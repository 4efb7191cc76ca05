"""DynamiCrafter: still pictures set in motion.

import dynamicrafter

model = dynamicrafter.load("512")
clip = dynamicrafter.animate(model, "picture.png", "a boat rocks on the waves", seed=7)
dynamicrafter.save(clip, "clip.mp4")
"""

from .api import Clip as Clip
from .api import animate as animate
from .api import interpolate as interpolate
from .api import load as load
from .api import loop as loop
from .api import render as render
from .api import save as save
from .errors import CheckpointError as CheckpointError
from .errors import DynamiCrafterError as DynamiCrafterError
from .errors import UsageError as UsageError
from .pipeline import Model as Model
from .settings import Settings as Settings
from .settings import make_settings as make_settings
