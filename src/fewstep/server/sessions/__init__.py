"""Who is there, and whose turn it is: pure, without torch, threads or clocks of its own."""
