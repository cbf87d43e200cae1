"""Two-sample metrics on feature and distance matrices: numpy and scipy, no domain and no torch."""
