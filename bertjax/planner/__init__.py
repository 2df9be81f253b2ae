"""What a train step costs on TPUs that are not there."""
