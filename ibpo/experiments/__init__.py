"""The embedded experiments: a language model trained here, from nothing, in minutes."""
