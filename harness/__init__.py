"""conrad-bench: how far can a confidence from a medical vision-language model be trusted?"""

__version__ = "0.1.0"
