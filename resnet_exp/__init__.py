"""Image-classification experiments: one Hydra config becomes one fast, exact, resumable run."""

__version__ = "0.1.0"
