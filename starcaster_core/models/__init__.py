"""The network: attention, motion, the UNet, its conditioning streams, the autoencoder, checkpoints."""
