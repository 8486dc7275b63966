"""What is found out about a network: its layers, receptive fields and class activation maps."""
