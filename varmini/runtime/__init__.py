"""What a training on any machine needs and a paper does not tell: files, devices, processes."""
