"""Gossip by ADMM (decentralised consensus by the alternating direction method of multipliers)."""

from peerlearn.strategies.admm.strategy import AdmmGossip as AdmmGossip
