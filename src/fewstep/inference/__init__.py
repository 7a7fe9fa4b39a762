"""Student -> pictures: pipeline, backends, budget, sessions."""
