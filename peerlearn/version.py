"""The version of this package; the wire protocol has its own, in types.py."""

__version__ = "0.1.0"
