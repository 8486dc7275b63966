"""Analyses of a network: its layers, their receptive fields and class activation maps."""
