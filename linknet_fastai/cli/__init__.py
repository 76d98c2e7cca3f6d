"""Typer commands: read arguments, call one function, render with rich. No logic.

Commands import what they call when they are called: torch and fastai take seconds, and --help answers at once.
"""
