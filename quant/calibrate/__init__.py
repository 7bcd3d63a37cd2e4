"""Post-training quantization of float models, calibrated on samples."""
