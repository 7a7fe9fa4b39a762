"""Pages that open offline: one HTML document with its pictures and plots inside, in the light and in the dark."""
