"""The name of a model to a frozen encoder: weights, preprocessing, taps and pooling."""
