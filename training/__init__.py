"""Making the models the node carries: data, training, evaluation, export. Never imported at run time."""
