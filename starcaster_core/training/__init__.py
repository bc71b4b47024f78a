"""One file a stage, in the order they are trained: autoencoder and encoders, then the talking portrait."""
