"""The commands, as typer calls them: each calls one function of the package and shows what it gives.

They import what they call when they are called: torch and fastai take seconds, and --help answers at once.
"""
