"""jipflow: federated medical imaging as a Snakemake workflow."""

__version__ = "0.1.0"
