"""What an experiment is: a TOML file read into frozen values, and the claims it makes."""
