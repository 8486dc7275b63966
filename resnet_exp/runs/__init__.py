"""Runs from top to bottom, `run.py` first; and what they print on the terminal."""
