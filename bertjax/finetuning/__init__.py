"""Training and predicting on labelled tasks, once or many times."""
