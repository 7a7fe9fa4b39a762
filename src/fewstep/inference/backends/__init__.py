"""Ways to run a denoiser fast, one file each, held to the eager one by parity tests."""
