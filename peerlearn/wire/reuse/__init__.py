"""What of an answer need not travel because the consumer holds it."""
