"""LinkNet, its card, saving and loading."""
