"""`peerlearn doctor`: what makes discovery on a LAN fail, with the fix beside each failure."""

import asyncio

from rich.table import Table

from peerlearn.cli.output import Output, plain
from peerlearn.errors import NetworkError
