"""A miniature SONAR that needs no download: a grammar of English, and a small encoder and decoder trained on it."""
