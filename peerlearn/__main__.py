"""`python -m peerlearn`: the same as the command `peerlearn`."""

from peerlearn.cli.main import run

if __name__ == "__main__":
    run()
