"""Plugins: packages that register methods, objectives, costs or operations of their own.

A package names modules under the entry point ``precrop.plugins``. They are imported once, before
the first name is looked up, and what they register is then known everywhere. Only installed
packages have entry points, so no file that is read can name one.
"""

import functools
from importlib.metadata import EntryPoints, entry_points

from precrop.errors import PrecropError, typed_reason
from precrop.forking import process_lock
from precrop.own import OWN_ERRORS

GROUP = "precrop.plugins"
_lock = process_lock()
_loaded: set[str] = set()


def load() -> None:
    """Import the plugins of installed packages, once per process.

    Raises:
        PrecropError: a plugin fails to import; the message names its package.
    """
    with _lock:
        for entry in _installed():
            if entry.value in _loaded:
                continue
            _loaded.add(entry.value)  # first, since a plugin may use precrop as it loads
            try:
                entry.load()
            except OWN_ERRORS as error:
                _loaded.discard(entry.value)
                package = entry.dist.name if entry.dist is not None else entry.name
                raise PrecropError(
                    f"the plugin {entry.name} of {package} fails ({typed_reason(error)}): "
                    "mend or remove it"
                ) from error


@functools.cache
def _installed() -> EntryPoints:
    """Return the installed packages' entry points; finding them takes milliseconds."""
    return entry_points(group=GROUP)
