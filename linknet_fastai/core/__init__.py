"""Errors, files, images, text, device, parallel work: what knows nothing of this program."""
