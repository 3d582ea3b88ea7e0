"""meshtrain: each base model trained once, moved once, and shared by all experiments."""

__version__ = "0.1.0"
