"""What travels: knowledge as frames, frames as bytes, and the bounds on both."""
