"""Confusion matrix, scores, metrics, Cityscapes' official scores."""
