"""A contest: few-step methods on one teacher, from the same noises, within the same budget, judged in pairs."""
