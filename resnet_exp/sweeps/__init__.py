"""Sweeps: many runs under one parent, planned, resumed and compared."""
