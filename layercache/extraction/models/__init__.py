"""From a model name to a frozen encoder: weights, preprocessing, taps and pooling."""
