"""From samples to denoised samples, without input, output, clock or model runtime."""
