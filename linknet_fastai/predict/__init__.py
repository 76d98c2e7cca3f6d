"""Images, video, uploads: inputs in, masks and overlays out."""
