"""One file for each kind of model; ``models.registry`` finds them by themselves."""
