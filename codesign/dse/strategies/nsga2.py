"""NSGA-II: evolution by non-dominated sorting and crowding (Deb, Pratap, Agarwal and Meyarivan, 2002)."""

from codesign.dse.strategies import Strategy
from codesign.dse.strategies._pymoo import Evolutionary

STRATEGY: Strategy = Evolutionary("nsga2", "nsga2", "NSGA2")
