"""The parts of a training: denoiser, codec, conditioner, features, discriminator, augmentation."""
