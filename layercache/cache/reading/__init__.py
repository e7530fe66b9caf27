"""Reading (layer, token) pairs of complete splits straight into buffers."""
