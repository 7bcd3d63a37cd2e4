"""AGE-MOEA-II: evolution that estimates the geometry of the front (Panichella, 2022)."""

from codesign.dse.strategies import Strategy
from codesign.dse.strategies._pymoo import Evolutionary

STRATEGY: Strategy = Evolutionary("age-moea2", "age2", "AGEMOEA2")
