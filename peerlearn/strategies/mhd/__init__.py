"""Multi-headed distillation (Zhmoginov et al. 2023)."""

from peerlearn.strategies.mhd.strategy import MHD as MHD
