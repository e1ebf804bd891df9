"""In-painting, out-painting, editing and repair without training for them."""
