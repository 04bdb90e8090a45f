"""Pictures of a trained model. Every function returns the bytes of a file and writes nothing."""
