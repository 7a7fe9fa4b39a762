"""The roles in the game: denoiser, codec, conditioner, features, discriminator, augmentation."""
