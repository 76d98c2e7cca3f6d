"""From a recipe and settings to a fastai Learner: callbacks, loss, optimizers, schedules, processes."""
