"""The errors a person can act on: each message is one sentence with what was wanted, what came and what to do."""


class DynamiCrafterError(Exception):
    """Base of every error this package raises on purpose; the message is meant to be shown as it is."""


class UsageError(DynamiCrafterError):
    """The request itself is wrong (a size, a step count, an unknown name); the command line exits with 2."""


class PictureError(DynamiCrafterError):
    """A picture could not be read or cannot be used."""


class CheckpointError(DynamiCrafterError):
    """A weights file is unreadable, of another architecture, or does not hold what it must."""


class DownloadError(DynamiCrafterError):
    """Weights could not be fetched; nothing that looks finished was left behind."""


class ClipError(DynamiCrafterError):
    """A clip could not be written or read back."""


class Cancelled(DynamiCrafterError):
    """Raised by a progress callback to stop the work within one step."""
