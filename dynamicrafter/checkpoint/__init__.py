"""Checkpoints of every format: told apart by content, loaded with every tensor accounted for, rewritten."""

from .convert import convert as convert
from .detect import choose as choose
from .detect import detect as detect
from .detect import variant_metadata as variant_metadata
from .entries import Entry as Entry
from .entries import Progress as Progress
from .entries import WeightsFile as WeightsFile
from .files import SUFFIXES as SUFFIXES
from .files import file_sha256 as file_sha256
from .files import open_weights as open_weights
from .inspect import ComponentReport as ComponentReport
from .inspect import Report as Report
from .inspect import inspect as inspect
from .load import Components as Components
from .load import load_components as load_components
