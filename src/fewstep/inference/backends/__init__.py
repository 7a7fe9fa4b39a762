"""Ways to run a denoiser fast, one file each; parity tests compare every one with eager."""
