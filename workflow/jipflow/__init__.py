"""jipflow: federated medical imaging as a Snakemake workflow."""

__version__ = "0.2.0.dev0"
