"""Exports of label tools: recognized, read, drawn as label maps, and described by a recipe."""
