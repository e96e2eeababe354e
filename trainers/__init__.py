"""What learns: ConRad, the probe, and the phantom base model."""
