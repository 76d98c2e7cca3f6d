"""`fit` and its resumption, the learning rate finder, the record of a run, loggers."""
