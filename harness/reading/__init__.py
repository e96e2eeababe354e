"""What a model wrote, read: elicitation formats and their parsers, sentences."""
