"""Errors, files, images, text, device, parallel work: nothing here depends on the rest of the program."""
