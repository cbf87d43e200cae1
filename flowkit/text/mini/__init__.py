"""A miniature SONAR that requires no download: a small English grammar, and an encoder and decoder trained on it."""
