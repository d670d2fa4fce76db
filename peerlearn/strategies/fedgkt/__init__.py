"""FedGKT: small edges and a large hub teach each other through outputs."""

from peerlearn.strategies.fedgkt.strategy import FedGKT as FedGKT
