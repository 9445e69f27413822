"""What a checkpoint is worth: right answers, speed, and the distance between two of them."""
