"""The mathematics of diffusion: pure functions, schedule coefficients in float64, no networks, no files."""
