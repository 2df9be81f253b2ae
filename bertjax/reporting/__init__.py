"""What runs did, as pages with plots."""
