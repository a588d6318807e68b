"""When the library is loaded: not while the first visitor's first picture is on its way.

Importing torch takes seconds, and for much of them no other thread gets anything done.
"""

from __future__ import annotations

import threading

PATIENCE = 5.0  # seconds after the server's start for which a first visitor is waited for
ON_ITS_WAY = 0.25  # seconds that a picture takes to its browser
visited = threading.Event()
