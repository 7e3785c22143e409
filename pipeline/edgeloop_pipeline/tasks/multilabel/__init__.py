"""Multilabel: any number of labels a sample, each decided by itself."""
