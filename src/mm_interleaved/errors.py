"""One family of errors: whatever a user can cause is an `MMInterleavedError` and says what to do.

Every message states what was expected, what came, where, and what to do. The command line turns these into one line and
exit status 2; anything else is our own fault and exits with 1.
"""


class MMInterleavedError(Exception):
    """Base of all errors that a user's input, files or machine can cause."""


class DocumentError(MMInterleavedError):
    """A document, or a picture in it, cannot be read or written."""


class ConfigError(MMInterleavedError):
    """A recipe, a configuration or a command-line value is wrong."""


class LayoutError(MMInterleavedError):
    """A document does not fit the token layout: too long, too many pictures, nothing in it."""


class ShapeError(MMInterleavedError):
    """A tensor has another shape than the module was configured for."""


class BackendError(MMInterleavedError):
    """A requested backend cannot run here."""


class CheckpointError(MMInterleavedError):
    """A checkpoint is missing, incomplete, or has other keys or shapes than the model."""


class DataError(MMInterleavedError):
    """A corpus, a pack or a source is missing, broken or of another version."""


class GenerationError(MMInterleavedError):
    """A document cannot be continued as asked."""


class StorageError(MMInterleavedError):
    """A result cannot be written: no space, no permission."""


class DownloadError(MMInterleavedError):
    """Something could not be fetched, or is not what its source names; what was fetched and made before is kept."""
