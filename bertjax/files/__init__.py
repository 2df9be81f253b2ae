"""Files of any kind and place: found, read, written whole, refused in one line."""
