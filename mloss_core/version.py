"""The library's version, as merged files state it."""

__version__ = "0.1.0"
