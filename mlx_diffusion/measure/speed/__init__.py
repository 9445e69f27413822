"""What a checkpoint costs and how fast it runs here."""
