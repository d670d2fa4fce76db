"""FedGKT: group knowledge transfer between small edges and a large hub."""

from peerlearn.strategies.fedgkt.strategy import FedGKT as FedGKT
