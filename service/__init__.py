"""tickwatch: says, within milliseconds, which live ticks are not normal, and why."""

__version__ = "0.1.0"
