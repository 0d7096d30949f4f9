"""The version of the package, which its distributions take from here."""

__version__ = "0.1.0"
