"""How images become cached rows without anyone waiting: decode ahead, forward, write behind."""
