"""What als does with images, for whichever face asks: the only part that knows all others.

- :mod:`als.service.core`: pulling images into the store and publishing them;
- :mod:`als.service.listing`: which images clients see as their own;
- :mod:`als.service.flights`: lookups that wait for a download;
- :mod:`als.service.contents`: reading images back;
- :mod:`als.service.usage`: space taken and saved.
"""

from als.service.core import Service

__all__ = ["Service"]
